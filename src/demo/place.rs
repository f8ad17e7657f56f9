//! Where things are: binaries, the user to run as, and folders that a server can use.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

/// A Unix socket's path has at most 107 bytes; the longest name below a socket folder is
/// `/.s.PGSQL.5432.lock`, 19 bytes.
const SOCKET_FOLDER_BYTES_MAX: usize = 107 - 19;

/// A user that a server runs as instead of root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

/// The folders of PATH.
pub fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

/// An executable file of that name in the first of `folders` that has one, or the sentence that says
/// which Debian package brings it.
pub fn find_binary(name: &str, package: &str, folders: &[PathBuf]) -> Result<PathBuf, String> {
    let executable =
        |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    folders.iter().map(|folder| folder.join(name)).find(executable).ok_or_else(|| {
        format!("{name} is not installed: install the Debian package {package} (apt-get install {package})")
    })
}

pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Whom to run as where root is refused: `postgres`, which the Debian package makes, or else `nobody`.
pub fn unprivileged() -> Result<RunAs, String> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(|name| {
            let name = CString::new(name).ok()?;
            // SAFETY: the answer is read before anything else could call getpwnam on this thread;
            // the two names are looked up once, while nothing else does.
            let entry = unsafe { libc::getpwnam(name.as_ptr()).as_ref()? };
            Some(RunAs { uid: entry.pw_uid, gid: entry.pw_gid })
        })
        .ok_or_else(|| "PostgreSQL does not run as root, and there is no user postgres or nobody".into())
}

/// Sixteen hex digits that stay the same for the same folder and user.
pub fn stable_name(folder: &Path) -> String {
    let mut hash = Sha256::new();
    // SAFETY: geteuid cannot fail.
    hash.update(unsafe { libc::geteuid() }.to_be_bytes());
    hash.update(folder.as_os_str().as_bytes());
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a folder that only its owner may enter, and returns its full path. Folders above it that
/// are missing are made with the usual permissions: a server's other user must get through.
pub fn private_folder(path: &Path) -> Result<PathBuf, String> {
    let cannot = |error: io::Error| format!("cannot make the folder {}: {error}", path.display());
    if let Some(above) = path.parent() {
        fs::create_dir_all(above).map_err(cannot)?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(cannot)?;
    fs::canonicalize(path).map_err(cannot)
}

/// A folder for sockets: `folder` itself where its name is short and plain enough to stand in a
/// socket's path, in settings and in URLs; else one in /tmp with a stable name. `owner` will
/// make sockets in it.
pub fn socket_folder(folder: &Path, owner: Option<RunAs>) -> Result<PathBuf, String> {
    let bytes = folder.as_os_str().as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_-.".contains(byte);
    if bytes.len() <= SOCKET_FOLDER_BYTES_MAX && bytes.iter().all(plain) {
        return Ok(folder.to_owned());
    }
    let short = PathBuf::from(format!("/tmp/fg-{}", stable_name(folder)));
    match fs::DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("cannot make the folder {}: {error}", short.display()));
        }
        _ => {}
    }
    // Anyone may write to /tmp: believe a folder that was there only if nobody else can use it.
    let meta = fs::symlink_metadata(&short).map_err(|error| format!("{}: {error}", short.display()))?;
    // SAFETY: geteuid cannot fail.
    let ours = meta.uid() == unsafe { libc::geteuid() } || owner.is_some_and(|owner| owner.uid == meta.uid());
    if !meta.is_dir() || !ours || meta.mode() & 0o077 != 0 {
        return Err(format!("{} belongs to someone else: remove it", short.display()));
    }
    give(&short, owner)?;
    Ok(short)
}

/// Makes `path` the user's own, where one is named.
pub fn give(path: &Path, owner: Option<RunAs>) -> Result<(), String> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|error| format!("cannot give {} to the server's user: {error}", path.display()))
}

/// Whether that user can reach and write the folder: asked as that user, since every folder
/// above it has a say.
pub fn can_write(path: &Path, user: RunAs) -> bool {
    let mut test = Command::new("/usr/bin/test");
    test.arg("-w").arg(path).arg("-a").arg("-x").arg(path).uid(user.uid).gid(user.gid).current_dir("/");
    test.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    test.status().is_ok_and(|status| status.success())
}

/// `/a b` as `%2Fa%20b`.
pub fn percent(text: &OsStr) -> String {
    let mut out = String::new();
    for byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"_-.".contains(byte) {
            out.push(*byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// It is gone afterwards, whether it was there or not.
pub fn remove_file(path: &Path) -> Result<(), String> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// It is gone afterwards with all that is in it, whether it was there or not.
pub fn remove_folder(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a server's sockets, and the folder that [`socket_folder`] made for them.
pub fn leave_socket_folder(folder: &Path, sockets: &[&str]) {
    for socket in sockets {
        let _ = fs::remove_file(folder.join(socket));
    }
    if folder.as_os_str().as_bytes().starts_with(b"/tmp/fg-") {
        let _ = fs::remove_dir(folder);
    }
}
