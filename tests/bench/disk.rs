//! The cost of syncing a journal, for one writer and for many.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::Samples;
use crate::setup::Bench;

/// About the size of the journal of a container with four networks, in bytes.
const PLAN: [u8; 4096] = [b'x'; 4096];

/// The time of concurrent writers, until the last has finished.
pub(crate) struct DiskRow {
    /// The number of writers.
    pub(crate) writers: usize,
    /// If each makes its file and syncs it.
    pub(crate) each: Samples,
    /// If each makes its file, and then the file system is synced once for all.
    pub(crate) grouped: Samples,
}

impl Bench {
    /// Measures concurrent writers, each with a folder and a file of its own, as Braid makes them.
    pub(crate) fn disk(&self) -> Vec<DiskRow> {
        let rounds = self.count(3, 31);
        let folder = self.disk.join("syncs");
        let row = |writers| {
            let (mut each, mut grouped) = (Samples::default(), Samples::default());
            for _ in 0..rounds {
                each.push(write(&folder, writers, true));
                grouped.push(write(&folder, writers, false));
            }
            DiskRow { writers, each, grouped }
        };
        [1, 4, 15, 60, 200].map(row).into()
    }
}

fn write(folder: &Path, writers: usize, each: bool) -> Duration {
    fs::create_dir(folder).expect("make a folder");
    let began = Instant::now();
    thread::scope(|scope| {
        for number in 0..writers {
            scope.spawn(move || {
                let own = folder.join(number.to_string());
                fs::create_dir(&own).expect("make a folder");
                let mut file = File::create(own.join("eth0.jsonl")).expect("make a file");
                file.write_all(&PLAN).expect("write");
                if each {
                    file.sync_data().expect("sync the file");
                    File::open(own).and_then(|own| own.sync_all()).expect("sync the folder");
                }
            });
        }
    });
    if !each {
        nix::unistd::syncfs(File::open(folder).expect("the folder")).expect("sync the file system");
    }
    let took = began.elapsed();
    fs::remove_dir_all(folder).expect("remove the folder");
    took
}
