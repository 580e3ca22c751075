//! `weft-sim`: runs seeds, repeats one, or shows that a seed repeats itself.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
