//! What a journal's sync costs, alone and with many at once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::measure::Samples;
use crate::setup::Bench;

/// As long as the journal of a container with four networks, about.
const PLAN: [u8; 4096] = [b'x'; 4096];

/// What so many writers at once took until the last was done.
pub(crate) struct DiskRow {
    /// How many.
    pub(crate) writers: usize,
    /// Each makes its file and syncs it.
    pub(crate) each: Samples,
    /// Each makes its file, and then the file system is synced once for all.
    pub(crate) grouped: Samples,
}

impl Bench {
    /// So many writers at once, each with a folder and a file of its own, as Braid makes them.
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
