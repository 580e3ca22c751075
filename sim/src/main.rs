//! `weft-sim`: runs seeds, repeats one, or shows that a seed repeats itself.

mod child;
mod cli;
mod prove;

fn main() -> std::process::ExitCode {
    cli::main()
}
