//! Sends a file to the disk while it is still being written.
//!
//! Flushing is the slow half of writing a checkpoint, and at the end it would find the disk idle until then.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// Bytes between two flushes: enough to keep a disk busy, and small files are done before the first.
const EVERY: u64 = 64 << 20;

/// Counts what is written to one file and has another thread flush it now and then.
#[derive(Default)]
pub(super) struct EarlyFlush {
    unflushed: u64,
    flusher: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl EarlyFlush {
    /// `bytes` more were written to `file`; always the same one.
    pub(super) fn wrote(&mut self, file: &File, bytes: usize) -> io::Result<()> {
        self.unflushed += bytes as u64;
        if self.unflushed < EVERY {
            return Ok(());
        }
        self.unflushed = 0;
        let (request, _) = match &mut self.flusher {
            Some(flusher) => flusher,
            none => none.insert(start(file.try_clone()?)?),
        };
        match request.try_send(()) {
            // Full: the flush that waits already covers these bytes.
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            // The other thread ended, which it does of itself only when a flush failed.
            Err(TrySendError::Disconnected(())) => self.finish(),
        }
    }

    /// Waits for the flushes that were asked for. The system reports a failed flush once, to whoever asked, so a file
    /// whose early flush failed must not be taken for written because a later one succeeds.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let Some((request, thread)) = self.flusher.take() else { return Ok(()) };
        drop(request);
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that flushes the file ended early")))
    }
}

fn start(file: File) -> io::Result<(SyncSender<()>, JoinHandle<io::Result<()>>)> {
    let (request, requests) = sync_channel(1);
    let flush_until_done = move || requests.iter().try_for_each(|()| file.sync_data());
    let thread = std::thread::Builder::new().name("flush".into()).spawn(flush_until_done)?;
    Ok((request, thread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_starts_with_the_first_large_amount_and_ends_with_the_file() {
        let file = tempfile::tempfile().unwrap();
        let mut flush = EarlyFlush::default();
        flush.wrote(&file, EVERY as usize - 1).unwrap();
        assert!(flush.flusher.is_none());
        for _ in 0..5 {
            flush.wrote(&file, EVERY as usize).unwrap();
        }
        assert!(flush.flusher.is_some() && flush.unflushed == 0);
        flush.finish().unwrap();
        assert!(flush.flusher.is_none());
    }

    /// A pipe cannot be flushed, so it stands for a disk that fails.
    #[cfg(unix)]
    #[test]
    fn a_flush_that_failed_is_not_forgotten() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut flush = EarlyFlush::default();
        flush.wrote(&file, EVERY as usize).unwrap();
        assert!(flush.finish().is_err());
        let failed_while_writing = (0..10_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            flush.wrote(&file, EVERY as usize).is_err()
        });
        assert!(failed_while_writing);
    }
}
