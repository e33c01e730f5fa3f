//! Files are written whole or not at all: write beside, flush to the disk, rename.
//!
//! A rename also keeps whoever has the old file mapped safe: the old content lives on until it is unmapped,
//! whereas truncating it in place would pull the memory from under them. Folders take their place the same way; whoever
//! writes their files flushes those.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::early_flush::EarlyFlush;
use super::error::{FileError, Result};

/// The most that one call to the system writes. More a call gains nothing, and some systems take several times as long
/// for a megabyte in one call as in sixteen.
const MOST_A_CALL: usize = 64 << 10;

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A file under construction; it takes its real name at [`AtomicFile::commit`] and vanishes when dropped before.
/// What is written through it, rather than through [`AtomicFile::file`], goes to the disk meanwhile.
pub struct AtomicFile {
    file: File,
    early_flush: EarlyFlush,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// Starts a file beside `target`, in a folder that must exist.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |source| FileError::Write { file: target.into(), source };
        if target.is_dir() {
            return Err(fail(io::Error::new(io::ErrorKind::IsADirectory, "there is a folder of that name")));
        }
        loop {
            let temporary = name_beside(target, "part").map_err(fail)?;
            match OpenOptions::new().write(true).read(true).create_new(true).open(&temporary) {
                Ok(file) => {
                    let early_flush = EarlyFlush::default();
                    return Ok(Self {
                        file,
                        early_flush,
                        temporary,
                        target: target.into(),
                        committed: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Flushes to the disk and gives the file its name, replacing what was there.
    pub fn commit(mut self) -> Result<()> {
        let fail = |source| FileError::Write { file: self.target.clone(), source };
        self.early_flush.finish().map_err(fail)?;
        self.file.sync_all().map_err(fail)?;
        std::fs::rename(&self.temporary, &self.target).map_err(fail)?;
        self.committed = true;
        sync_folder(&self.target);
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(&bytes[..bytes.len().min(MOST_A_CALL)])?;
        self.early_flush.wrote(&self.file, written)?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// A name beside `target` that nothing has yet, and nobody else will choose.
fn name_beside(target: &Path, ending: &str) -> io::Result<PathBuf> {
    let name = target
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names nothing"))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    beside.push(format!(".{}-{count}.{ending}", std::process::id()));
    Ok(target.with_file_name(beside))
}

/// A folder under construction; it takes its real name at [`AtomicFolder::commit`] and vanishes when dropped before.
pub struct AtomicFolder {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicFolder {
    /// Starts a folder beside `target`, in a folder that must exist.
    pub fn create(target: &Path) -> Result<Self> {
        let fail = |source| FileError::Write { file: target.into(), source };
        loop {
            let temporary = name_beside(target, "part").map_err(fail)?;
            match std::fs::create_dir(&temporary) {
                Ok(()) => return Ok(Self { temporary, target: target.into(), committed: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Gives the folder its name. What was there before is set aside first and removed afterwards, so that at every
    /// moment one of the two is whole.
    pub fn commit(mut self) -> Result<()> {
        let fail = |source| FileError::Write { file: self.target.clone(), source };
        let mut replaced = None;
        if self.target.symlink_metadata().is_ok() {
            let aside = name_beside(&self.target, "old").map_err(fail)?;
            std::fs::rename(&self.target, &aside).map_err(fail)?;
            replaced = Some(aside);
        }
        if let Err(error) = std::fs::rename(&self.temporary, &self.target) {
            if let Some(aside) = &replaced {
                std::fs::rename(aside, &self.target).map_err(fail)?;
            }
            return Err(fail(error));
        }
        self.committed = true;
        sync_folder(&self.target);
        if let Some(aside) = replaced {
            let removed =
                if aside.is_dir() { std::fs::remove_dir_all(&aside) } else { std::fs::remove_file(&aside) };
            removed.map_err(|source| FileError::Write { file: aside.clone(), source })?;
        }
        Ok(())
    }
}

impl Drop for AtomicFolder {
    fn drop(&mut self) {
        if !self.committed {
            // As for files: nothing better can be done.
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing better can be done about a temporary file that will not go away.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Makes the rename itself survive a power cut. File systems that cannot flush a folder are left as they are.
fn sync_folder(target: &Path) {
    if cfg!(unix) {
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Ok(folder) = File::open(folder) {
            let _ = folder.sync_all();
        }
    }
}

/// Writes `path` whole or not at all: `write` fills a temporary file beside it, which then takes its name.
/// When `write` fails, nothing of it remains and the old file is untouched.
pub fn atomic_write<T>(path: &Path, write: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T> {
    let mut file = AtomicFile::create(path)?;
    let value = write(file.file()).map_err(|source| FileError::Write { file: path.into(), source })?;
    file.commit()?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        atomic_write(&path, |file| file.write_all(b"old")).unwrap();
        let failure = atomic_write(&path, |file| {
            file.write_all(b"half")?;
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
        })
        .unwrap_err();
        assert!(matches!(failure, FileError::Write { .. }) && !failure.hints().is_empty());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        atomic_write(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_written_through_it_arrives_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let mut file = AtomicFile::create(&path).unwrap();
        let content: Vec<u8> = (0..3 * MOST_A_CALL + 7).map(|i| (i % 251) as u8).collect();
        file.write_all(&content).unwrap();
        file.seek(SeekFrom::Start(5)).unwrap();
        file.write_all(b"five").unwrap();
        file.commit().unwrap();
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), content.len());
        assert_eq!(&found[5..9], b"five");
        assert!(found[..5] == content[..5] && found[9..] == content[9..]);
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("model");
        let make = |content: &str, finish: bool| {
            let folder = AtomicFolder::create(&target).unwrap();
            std::fs::write(folder.path().join("a"), content).unwrap();
            if finish {
                folder.commit().unwrap();
            }
        };
        make("1", false);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
        make("1", true);
        make("2", false);
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
        make("2", true);
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(AtomicFolder::create(&parent.path().join("no/such")).is_err());
    }

    #[test]
    fn impossible_targets_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for target in [folder.path().to_path_buf(), folder.path().join("no/such/folder/a.txt")] {
            let error = atomic_write(&target, |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(&target.display().to_string()), "{error}");
        }
    }
}
