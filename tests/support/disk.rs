//! A file system that stops answering.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::is_real_root;

/// A file system of its own, unmounted when dropped. While it is frozen, processes that write to it hang in the kernel.
pub(crate) struct Disk {
    place: PathBuf,
    /// Thaws it when this process exits for any reason: processes that hang on a frozen file system cannot be killed.
    guard: Option<Child>,
}

impl Disk {
    /// Mounts one at `place`, if this machine can.
    pub(crate) fn mount(place: PathBuf) -> Option<Self> {
        if !is_real_root() {
            eprintln!("to mount a file system needs the real root: skipped");
            return None;
        }
        fs::create_dir_all(&place).expect("make the place");
        let image = place.with_extension("img");
        fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("make an image");
        let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let made =
            runs("mkfs.ext4", &["-q", &path(&image)]) && runs("mount", &["-o", "loop", &path(&image), &path(&place)]);
        if !made {
            eprintln!("no ext4 on a loop device here: skipped");
            return None;
        }
        let thaw = "read -r _; fsfreeze -u \"$1\" 2>/dev/null; umount -l \"$1\"";
        let guard = Command::new("setsid").args(["sh", "-c", thaw, "sh"]).arg(&place).stdin(Stdio::piped()).spawn();
        Some(Self { place, guard: Some(guard.expect("start the guard")) })
    }

    pub(crate) fn freeze(&self) {
        assert!(runs("fsfreeze", &["-f", self.place.to_str().expect("UTF-8")]), "freeze");
    }

    pub(crate) fn thaw(&self) {
        assert!(runs("fsfreeze", &["-u", self.place.to_str().expect("UTF-8")]), "thaw");
    }

    /// The names of the files on it.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.place).expect("read the directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
        names.filter(|name| name != "lost+found").collect()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

fn runs(program: &str, words: &[&str]) -> bool {
    let output = Command::new(program).args(words).output();
    output
        .inspect(|output| eprint!("{}", String::from_utf8_lossy(&output.stderr)))
        .is_ok_and(|output| output.status.success())
}
