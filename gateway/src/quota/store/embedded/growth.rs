//! Storage that grows before anything counts on its new length.
//!
//! redb lengthens its file, writes a header that says so, and syncs both together. Where the power fails in between, a disk
//! may keep the header and lose the length, and redb then takes the file for a broken one. A growth is rare, so a sync of
//! its own costs nothing.

use std::io;

use redb::StorageBackend;

/// Makes each change of length durable before the next write.
#[derive(Debug)]
pub(super) struct GrowthFirst<S>(pub(super) S);

impl<S: StorageBackend> StorageBackend for GrowthFirst<S> {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)?;
        self.0.sync_data()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}
