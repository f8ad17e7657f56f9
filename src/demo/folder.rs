//! The demo's data folder: who uses it, its secrets, and the settings that follow from them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::child::try_lock;
use super::{place, postgres_server};
use crate::config::Layers;

const CODE_KEY: &str = "code.key";
const JWT_SECRET: &str = "jwt.secret";
const ADMIN_KEY: &str = "admin.key";
const LOCK: &str = "in-use";

/// A data folder that is this process' own while it lives.
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

// === impl DataFolder ===

impl DataFolder {
    /// Makes the folder if there is none, and keeps others out.
    pub fn take(path: &Path) -> Result<DataFolder, String> {
        let cannot = |error: io::Error| format!("cannot use {} as the data folder: {error}", path.display());
        fs::create_dir_all(path).map_err(cannot)?;
        let path = fs::canonicalize(path).map_err(cannot)?;
        let file = path.join(LOCK);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&file)
            .map_err(|error| format!("cannot open {}: {error}", file.display()))?;
        if !try_lock(&lock) {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            return Err(format!(
                "the data folder {} is in use by process {}: stop it, or choose another folder with --data",
                path.display(),
                holder.trim()
            ));
        }
        // For whoever is kept out: nothing depends on it.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(DataFolder { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn redis(&self) -> PathBuf {
        self.path.join("redis")
    }

    pub fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    pub fn admin_key(&self) -> PathBuf {
        self.path.join(ADMIN_KEY)
    }

    /// Removes what a demo has put here, and nothing else: the folder may be a person's own.
    pub fn reset(&self) -> Result<(), String> {
        postgres_server::forget(&self.postgres())?;
        for name in ["redis", "postgres"] {
            place::remove_folder(&self.path.join(name))?;
        }
        for name in [CODE_KEY, JWT_SECRET, ADMIN_KEY] {
            place::remove_file(&self.path.join(name))?;
        }
        Ok(())
    }

    /// Makes the secrets that are not there yet.
    pub fn make_secrets(&self) -> Result<(), String> {
        for (name, prefix, bytes) in [(CODE_KEY, "", 16), (JWT_SECRET, "", 32), (ADMIN_KEY, "demo-", 24)] {
            let path = self.path.join(name);
            if !path.exists() {
                write_secret(&path, &format!("{prefix}{}\n", random_hex(bytes)?))?;
            }
        }
        Ok(())
    }
}

/// The settings of a demo on that folder, over what is set otherwise: its secrets, and user ids as
/// they are. A JWT secret or an admin key of the environment is left alone: nothing stored depends on them.
pub fn settings(folder: &Path, mut layers: Layers) -> Result<Layers, String> {
    let file = |name: &str| folder.join(name).display().to_string();
    if !folder.join(CODE_KEY).exists() {
        return Err(format!("{} is no data folder of a demo", folder.display()));
    }
    layers.set("code", "key_file", file(CODE_KEY));
    layers.set("privacy", "encrypt", false);
    for (variable, key, name) in
        [("FLOODGATE_JWT_SECRET", "jwt_secret_file", JWT_SECRET), ("FLOODGATE_ADMIN_KEY", "admin_key_file", ADMIN_KEY)]
    {
        let given = |variable: &str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        if !given(variable) && !given(&format!("{variable}_FILE")) {
            layers.set("auth", key, file(name));
        }
    }
    Ok(layers)
}

/// Whole or not at all, and never readable by others.
fn write_secret(path: &Path, text: &str) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", path.display());
    let new = path.with_extension("new");
    place::remove_file(&new)?;
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new).map_err(cannot)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
    fs::rename(&new, path).map_err(cannot)
}

fn random_hex(bytes: usize) -> Result<String, String> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|error| format!("the system has no random bytes: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_said_to_be() {
        let path = std::env::temp_dir().join(format!("floodgate-folder-{}", std::process::id()));
        let folder = DataFolder::take(&path).unwrap();
        let error = DataFolder::take(&path).err().unwrap();
        assert!(error.contains(&format!("in use by process {}", std::process::id())), "{error}");
        drop(folder);
        DataFolder::take(&path).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn secrets_are_made_once_and_are_good_settings() {
        let path = std::env::temp_dir().join(format!("floodgate-secrets-{}", std::process::id()));
        let folder = DataFolder::take(&path).unwrap();
        folder.make_secrets().unwrap();
        let read = || fs::read_to_string(path.join(CODE_KEY)).unwrap();
        let first = read();
        folder.make_secrets().unwrap();
        assert_eq!(first, read());
        settings(&path, Layers::read(None, Vec::new()).unwrap()).unwrap().build().unwrap();
        folder.reset().unwrap();
        assert!(settings(&path, Layers::read(None, Vec::new()).unwrap()).is_err());
        fs::remove_dir_all(path).unwrap();
    }
}
