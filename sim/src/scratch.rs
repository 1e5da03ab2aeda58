//! Where native code works: real directories, needed by nobody after the run.

/// The environment variable that names the directory to put them in. Whoever starts a process that may be killed sets it, and
/// removes what is left in it.
pub const SCRATCH_VARIABLE: &str = "WEIR_SCRATCH";

/// A new directory. In memory where there is a file system for that: what native code makes durable there costs nothing.
///
/// # Errors
/// If none can be made.
pub fn scratch_directory(prefix: &str) -> std::io::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix);
    match std::env::var_os(SCRATCH_VARIABLE) {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()),
    }
}
