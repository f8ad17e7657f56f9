//! Disks that fill up, fail, or are slow: a small file system of a store's own, and a shim for Redis.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::TestApp;

/// A file system in memory, unmounted when it is dropped.
pub(super) struct Disk(PathBuf);

/// The file through which a test tells `disk_shim.c`.
pub(super) const DISK_FILE: &str = "disk";

/// Mounts a small file system. `None`: this user may not.
pub(super) fn mount(folder: &Path, megabytes: u32) -> Option<Disk> {
    std::fs::create_dir_all(folder).unwrap();
    let [place, kind] = [folder.as_os_str().as_encoded_bytes(), b"tmpfs"].map(|text| CString::new(text).unwrap());
    let options = CString::new(format!("size={megabytes}m,mode=0755")).unwrap();
    // SAFETY: mount takes strings that end, which live until it returns.
    let mounted = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    (mounted == 0).then(|| Disk(folder.to_owned()))
}

/// The compiled shim, made once a run.
pub(super) fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| crate::support::clock_redis::compile("disk_shim"))
}

impl Drop for Disk {
    fn drop(&mut self) {
        let place = CString::new(self.0.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: umount2 takes a string that ends. Whatever is open there goes with its process.
        unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) };
    }
}

impl TestApp {
    /// Fills a store's disk to the last byte. With [`super::Plan::small_disk`].
    pub fn fill_disk(&self, store: &str) {
        let mut ballast = File::create(self.folder.0.join(store).join("ballast")).unwrap();
        for piece in [1 << 20, 4096, 1] {
            while ballast.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    /// Makes room again.
    pub fn clear_disk(&self, store: &str) {
        std::fs::remove_file(self.folder.0.join(store).join("ballast")).unwrap();
    }

    /// Makes Redis' writes to its files fail with an errno, and its syncs take so long. With
    /// [`super::Plan::bad_disk`].
    pub fn set_disk(&self, errno: i32, sync_ms: i64) {
        let bytes = [i64::from(errno).to_ne_bytes(), sync_ms.to_ne_bytes()].concat();
        File::options().write(true).open(self.folder.0.join(DISK_FILE)).unwrap().write_all_at(&bytes, 0).unwrap();
    }

    /// How much of its append-only file Redis has synced.
    pub fn synced_bytes(&self) -> u64 {
        let mut bytes = [0; 8];
        File::open(self.folder.0.join(DISK_FILE)).unwrap().read_exact_at(&mut bytes, 16).unwrap();
        u64::from_ne_bytes(bytes)
    }

    /// Copies PostgreSQL's data, as they are, while it is stopped.
    pub fn copy_postgres(&self, from: &Path, to: &Path) {
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    }
}
