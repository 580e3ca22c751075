//! A seed in a process of its own: this program again, with other arguments.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// No seed takes longer than this on any machine; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(600);

/// How a child ended.
pub(crate) struct Finished {
    pub(crate) ok: bool,
    /// What it printed.
    pub(crate) line: String,
    /// What it printed as errors.
    pub(crate) errors: String,
}

/// Runs this program with these arguments to its end.
pub(crate) fn run(args: &[String]) -> std::io::Result<Finished> {
    let child = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    finish(child)
}

/// Waits for a child, killing it when it takes too long.
fn finish(mut child: Child) -> std::io::Result<Finished> {
    let pid = child.id();
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let reader = std::thread::spawn(move || read_all(err.as_mut()));
    let (over, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(PATIENCE).is_err() {
            // SAFETY: a signal to our own child, which has not been waited for: the channel says so first.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    });
    let line = read_all(out.as_mut());
    let status = child.wait()?;
    // The watchdog may have fired and gone.
    let _ = over.send(());
    let errors = reader.join().unwrap_or_default();
    // It ends by itself in either case.
    let _ = watchdog.join();
    Ok(Finished { ok: status.success(), line: line.trim().to_string(), errors })
}

fn read_all(from: Option<&mut impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        // What could be read is shown; the exit status decides.
        let _ = from.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
