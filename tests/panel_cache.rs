//! The panel cache: a start from it gives the bits of a start without it, whatever happened to its files.

mod common;

use common::{Folder, Stored, data, many_words, noise, sources};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tiny_t5::{Dtype, Generate, Load, T5};

fn load(cache: &Path) -> Load {
    Load { cache: Some(cache.to_owned()), ..Load::default() }
}

fn cached(folder: &Path, cache: &Path) -> T5 {
    T5::open_with(folder, &load(cache)).unwrap()
}

/// Logits' bits, greedy ids (through the screen where the vocabulary is large) and beams.
fn answers(t5: &T5, sources: &[Vec<u32>]) -> Vec<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    let options = |beams| {
        let mut options = Generate::default();
        (options.max_new_tokens, options.num_beams) = (Some(6), Some(beams));
        options
    };
    let answer = |source: &Vec<u32>| {
        let logits = t5.logits(source, &[0, 3]).unwrap();
        let ids = |beams| t5.generate(source, &options(beams)).unwrap().sequences.swap_remove(0).ids;
        (logits.values.iter().map(|x| x.to_bits()).collect(), ids(1), ids(3))
    };
    sources.iter().map(answer).collect()
}

/// The files of a cache folder.
fn files(cache: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn contents(cache: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(cache).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

/// Those whose names end so.
fn ending(cache: &Path, end: &str) -> Vec<PathBuf> {
    files(cache).into_iter().filter(|file| file.to_string_lossy().ends_with(end)).collect()
}

fn layers(cache: &Path) -> Vec<PathBuf> {
    ending(cache, "-layers.panels")
}

#[test]
fn a_start_from_the_cache_gives_the_same_bits() {
    let folders = [
        "v1_0-relu-tied",
        "bf16",
        "f16",
        "umt5-bias-in-every-layer",
        "odd-sizes",
        "pytorch-bin",
        "sharded-safetensors",
    ];
    for folder in folders.map(|name| format!("goldens/{name}")) {
        let (cache, sources) = (tempfile::tempdir().unwrap(), sources(&folder));
        let expected = answers(&T5::open(data(&folder)).unwrap(), &sources);
        assert_eq!(answers(&cached(&data(&folder), cache.path()), &sources), expected, "{folder}, first start");
        let written = contents(cache.path());
        assert_eq!(layers(cache.path()).len(), 1, "{folder}");
        assert_eq!(answers(&cached(&data(&folder), cache.path()), &sources), expected, "{folder}, second start");
        assert_eq!(contents(cache.path()), written, "{folder}");
    }
}

#[test]
fn the_screen_and_the_head_are_kept_too() {
    let (model, cache) = (many_words(), tempfile::tempdir().unwrap());
    let sources = [vec![5, 9, 7, 1], vec![19_999, 4, 1]];
    let expected = answers(&model.open().unwrap(), &sources);
    for start in ["first", "second"] {
        assert_eq!(answers(&cached(model.write(), cache.path()), &sources), expected, "{start} start");
    }
    for what in ["-layers.panels", "-screen.panels", "-head.panels"] {
        assert_eq!(ending(cache.path(), what).len(), 1, "{what}");
    }
}

/// Seen by what it computes once another model's entry stands under its name.
#[test]
fn a_second_start_computes_with_what_the_cache_holds() {
    let one = Folder::of("goldens/v1_0-relu-tied");
    let name = "encoder.block.0.layer.0.SelfAttention.q.weight";
    let shape = one.tensors[name].shape.clone();
    let other_q: Vec<f32> = noise(7).take(shape.iter().product()).collect();
    let other = Folder::of("goldens/v1_0-relu-tied").with_tensor(name, Stored::of(&shape, &other_q));
    let (cache, sources) = (tempfile::tempdir().unwrap(), [vec![5, 9, 7, 1]]);
    let of_one = answers(&cached(one.write(), cache.path()), &sources);
    let [entry_of_one] = layers(cache.path()).try_into().unwrap();
    let of_other = answers(&cached(other.write(), cache.path()), &sources);
    assert_ne!(of_one, of_other, "another content is another entry");
    let entry_of_other = layers(cache.path()).into_iter().find(|path| *path != entry_of_one).unwrap();
    std::fs::copy(&entry_of_other, &entry_of_one).unwrap();
    assert_eq!(answers(&cached(one.write(), cache.path()), &sources), of_other);
}

#[test]
fn damaged_entries_are_made_anew() {
    let folder = "goldens/v1_1-gated-gelu-untied";
    let (cache, sources) = (tempfile::tempdir().unwrap(), sources(folder));
    let expected = answers(&cached(&data(folder), cache.path()), &sources);
    let whole = contents(cache.path());
    let [entry] = layers(cache.path()).try_into().unwrap();
    let bytes = std::fs::read(&entry).unwrap();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let cut = |len: usize| bytes[..len].to_vec();
    let longer = [&bytes[..], &[0]].concat();
    let last = bytes.len() - 1;
    let spoilt = [cut(0), cut(15), cut(48), cut(4096), cut(last), longer]
        .into_iter()
        .chain([0, 15, 16, 22, 23, 24, 31, 32, 47, 48, 60, 4096, 5000, last].map(flipped));
    for (i, spoilt) in spoilt.enumerate() {
        std::fs::write(&entry, spoilt).unwrap();
        assert_eq!(answers(&cached(&data(folder), cache.path()), &sources), expected, "damage {i}");
        assert_eq!(contents(cache.path()), whole, "damage {i}");
    }
}

#[test]
fn another_width_is_another_entry() {
    let (folder, cache) = (data("goldens/v1_0-relu-tied"), tempfile::tempdir().unwrap());
    let sources = [vec![5, 9, 7, 1]];
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let (mut without, mut with) = (Load::default(), load(cache.path()));
        (without.dtype, with.dtype) = (dtype, dtype);
        let expected = answers(&T5::open_with(&folder, &without).unwrap(), &sources);
        for _ in 0..2 {
            assert_eq!(answers(&T5::open_with(&folder, &with).unwrap(), &sources), expected, "{dtype:?}");
        }
    }
    assert_eq!(layers(cache.path()).len(), 3);
}

#[test]
fn writers_at_the_same_time_leave_whole_entries() {
    let (folder, cache) = (data("goldens/v1_0-relu-tied"), tempfile::tempdir().unwrap());
    let sources = [vec![5, 9, 7, 1]];
    let expected = answers(&T5::open(&folder).unwrap(), &sources);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(answers(&cached(&folder, cache.path()), &sources), expected);
                    // As if nobody had been here.
                    layers(cache.path()).iter().for_each(|path| drop(std::fs::remove_file(path)));
                }
            });
        }
    });
    assert_eq!(ending(cache.path(), ".part"), Vec::<PathBuf>::new());
}

/// A file that was rewritten in place, with its time set back: only the inode's own time tells.
#[cfg(unix)]
#[test]
fn content_that_changed_behind_its_times_is_noticed() {
    let one = Folder::of("goldens/v1_0-relu-tied");
    let (cache, sources) = (tempfile::tempdir().unwrap(), [vec![5, 9, 7, 1]]);
    let folder = one.write().to_owned();
    let weights = folder.join("model.safetensors");
    std::thread::sleep(Duration::from_millis(3_200)); // files that just changed are not remembered
    let before = answers(&cached(&folder, cache.path()), &sources);
    assert_eq!(ending(cache.path(), ".content").len(), 1, "remembered");
    let modified = std::fs::metadata(&weights).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&weights).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].fill(0);
    std::fs::write(&weights, bytes).unwrap();
    std::fs::File::options().write(true).open(&weights).unwrap().set_modified(modified).unwrap();
    let expected = answers(&T5::open(&folder).unwrap(), &sources);
    assert_ne!(expected, before);
    assert_eq!(answers(&cached(&folder, cache.path()), &sources), expected);
}

/// What stands where a sum should, and what writers left that died: neither waits, nor is read, nor stays.
#[cfg(unix)]
#[test]
fn pipes_and_left_parts_harm_nobody() {
    let one = Folder::of("goldens/v1_0-relu-tied");
    let (cache, sources) = (tempfile::tempdir().unwrap(), [vec![5, 9, 7, 1]]);
    let folder = one.write().to_owned();
    std::thread::sleep(Duration::from_millis(3_200)); // files that just changed are not remembered
    let before = answers(&cached(&folder, cache.path()), &sources);
    let [content] = ending(cache.path(), ".content").try_into().unwrap();
    std::fs::remove_file(&content).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&content).status().unwrap().success());
    assert_eq!(answers(&cached(&folder, cache.path()), &sources), before);

    let [old, new, other] = ["1-1.part", "2-1.part", "film.part"].map(|name| cache.path().join(name));
    for (part, hours) in [(&old, 3), (&new, 0), (&other, 3)] {
        std::fs::write(part, "half").unwrap();
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(3600 * hours);
        std::fs::File::options().write(true).open(part).unwrap().set_modified(long_ago).unwrap();
    }
    layers(cache.path()).iter().for_each(|entry| std::fs::remove_file(entry).unwrap());
    assert_eq!(answers(&cached(&folder, cache.path()), &sources), before);
    assert!(!old.exists() && new.exists() && other.exists());
}

#[test]
fn a_cache_that_cannot_be_is_an_error_and_one_that_cannot_be_written_a_note() {
    let (folder, place) = (data("goldens/v1_0-relu-tied"), tempfile::tempdir().unwrap());
    let file = place.path().join("a-file");
    std::fs::write(&file, "no folder").unwrap();
    let error = T5::open_with(&folder, &load(&file)).err().unwrap().to_string();
    assert!(error.contains("a-file"), "{error}");

    let cache = place.path().join("made/where/absent");
    let expected = answers(&cached(&folder, &cache), &[vec![5, 1]]);
    let [entry] = layers(&cache).try_into().unwrap();
    std::fs::remove_file(&entry).unwrap();
    std::fs::create_dir_all(entry.join("in the way")).unwrap();
    let t5 = cached(&folder, &cache);
    assert_eq!(answers(&t5, &[vec![5, 1]]), expected);
    let note = t5.notes().join("\n");
    assert!(note.contains("panel cache") && note.contains("-layers.panels"), "{note}");
}

#[test]
fn a_model_that_was_read_does_not_care_what_becomes_of_the_files() {
    let (folder, cache) = (Folder::of("goldens/v1_0-relu-tied"), tempfile::tempdir().unwrap());
    let sources = sources("goldens/v1_0-relu-tied");
    let expected = answers(&folder.open().unwrap(), &sources);
    cached(folder.path(), cache.path());
    let read = T5::open_with(folder.path(), &Load { no_mmap: true, ..load(cache.path()) }).unwrap();
    for file in files(cache.path()).into_iter().chain([folder.path().join("model.safetensors")]) {
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    assert_eq!(answers(&read, &sources), expected);
}
