//! Memory that a parser may use: no more than some times its input, whatever the input claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what each thread has in use. Whoever runs bodies makes it the global allocator.
pub struct Counting;

thread_local! {
    static USED: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has nothing left to count with.
    let _ = USED.try_with(|used| {
        used.set(used.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(used.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What `parse` had in use at the most, besides what was in use before.
pub fn most_used<T>(parse: impl FnOnce() -> T) -> (T, usize) {
    let before = USED.get();
    MOST.set(before);
    let value = parse();
    (value, (MOST.get() - before).max(0) as usize)
}

/// Runs a parser on `len` bytes and panics if it used more than some hundred times as many.
///
/// The factor: one byte of input may announce one item of a list, and the largest items take a few hundred bytes.
pub fn frugal<T>(len: usize, parse: impl FnOnce() -> T) -> T {
    let (value, used) = most_used(parse);
    let may = 512 * len + (64 << 10);
    assert!(used <= may, "{used} bytes of memory for {len} bytes of input");
    value
}
