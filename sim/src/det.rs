//! Determinism below the language: while a simulation is active on a thread, that thread's clock and randomness come
//! from the seed, whoever asks. Product code asks through its seams; this catches the libraries (hash seeds, `ring`,
//! election jitter), which call libc.
//!
//! `getrandom`, `getentropy`, `clock_gettime` and `syscall` are interposed by defining them in the executable; outside a
//! simulation each does what libc's does. x86_64 Linux only; the crate does not build elsewhere.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Simulated wall clocks begin at 2026-01-01T00:00:00Z.
pub const EPOCH_S: u64 = 1_767_225_600;
const MONOTONIC_START: u64 = 1_000_000_000_000;

/// From here on this thread's clock and randomness are the simulation's.
pub fn activate(seed: u64) {
    RANDOM.set(seed ^ 0x5eed_0000_0000_0001);
    NOW.set(MONOTONIC_START);
    ACTIVE.set(true);
}

/// Back to the real ones.
pub fn deactivate() {
    ACTIVE.set(false);
}

/// Sets the simulated time, in nanoseconds since its start.
pub fn set_now(nanos: u64) {
    NOW.set(MONOTONIC_START + nanos);
}

/// The simulated time in nanoseconds since its start.
pub fn now() -> u64 {
    NOW.get().saturating_sub(MONOTONIC_START)
}

/// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn next() -> u64 {
    let state = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    RANDOM.set(state);
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `len` bytes at `buf`.
///
/// # Safety
/// `buf` must be valid for writes of `len` bytes.
unsafe fn fill(buf: *mut u8, len: usize) {
    let mut at = 0;
    while at < len {
        let bytes = next().to_le_bytes();
        let n = (len - at).min(8);
        // SAFETY: at + n <= len, and the caller vouches for len bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buf.add(at), n) };
        at += n;
    }
}

/// The system call itself, past libc.
///
/// # Safety
/// As the kernel's contract of call `n` with arguments `a`.
#[inline(always)]
unsafe fn raw(n: c_long, a: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the x86_64 convention: number in rax, arguments in these six, rcx and r11 overwritten.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") n as isize => result, in("rdi") a[0], in("rsi") a[1],
            in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    result
}

/// A system call's result as libc gives it: -1 and errno on failure.
fn as_libc(result: isize) -> c_long {
    if (-4095..0).contains(&result) {
        // SAFETY: errno's address is valid for the thread's life.
        unsafe { *libc::__errno_location() = -result as c_int };
        -1
    } else {
        result as c_long
    }
}

/// libc's `getrandom`.
///
/// # Safety
/// As libc's: `buf` valid for writes of `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buf: *mut c_void, len: usize, flags: c_uint) -> isize {
    if ACTIVE.get() {
        // SAFETY: the caller vouches for buf.
        unsafe { fill(buf.cast(), len) };
        return len as isize;
    }
    // SAFETY: the caller vouches for buf.
    as_libc(unsafe { raw(libc::SYS_getrandom, [buf as usize, len, flags as usize, 0, 0, 0]) }) as isize
}

/// libc's `getentropy`.
///
/// # Safety
/// As libc's: `buf` valid for writes of `len` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(buf: *mut c_void, len: usize) -> c_int {
    // SAFETY: the caller vouches for buf.
    if unsafe { getrandom(buf, len, 0) } < 0 { -1 } else { 0 }
}

/// libc's `syscall`: variadic there, the same registers on x86_64. `ring` asks for randomness through it.
///
/// # Safety
/// As libc's for call `n`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(n: c_long, a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_long {
    if ACTIVE.get() && n == libc::SYS_getrandom {
        // SAFETY: the caller vouches for the buffer, as it would to the kernel.
        unsafe { fill(a as *mut u8, b) };
        return b as c_long;
    }
    if ACTIVE.get() && n == libc::SYS_clock_gettime {
        // SAFETY: the caller vouches for the pointer, as it would to the kernel.
        return c_long::from(unsafe { clock_gettime(a as c_int, b as *mut libc::timespec) });
    }
    // SAFETY: the caller vouches for the arguments.
    as_libc(unsafe { raw(n, [a, b, c, d, e, f]) })
}

/// libc's `clock_gettime`.
///
/// # Safety
/// As libc's: `time` valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(id: c_int, time: *mut libc::timespec) -> c_int {
    if ACTIVE.get() {
        let nanos = NOW.get();
        let wall = id == libc::CLOCK_REALTIME || id == libc::CLOCK_REALTIME_COARSE;
        let base = if wall { EPOCH_S as i64 } else { 0 };
        let value =
            libc::timespec { tv_sec: base + (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 };
        // SAFETY: the caller vouches for the pointer.
        unsafe { *time = value };
        return 0;
    }
    // SAFETY: the caller vouches for the pointer.
    as_libc(unsafe { raw(libc::SYS_clock_gettime, [id as usize, time as usize, 0, 0, 0, 0]) }) as c_int
}

/// Real monotonic nanoseconds, also while a simulation is active: for watchdogs and speeds.
pub fn real_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let at = &raw mut time;
    // SAFETY: `at` is valid for the write.
    unsafe { raw(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, at as usize, 0, 0, 0, 0]) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
