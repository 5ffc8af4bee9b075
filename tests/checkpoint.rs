//! Checkpoint folders as they are released, and as an attacker would write them.
//!
//! The data is `tests/data/goldens`. What each format's reader refuses in detail is tested beside the reader; here a
//! folder is opened as a user opens it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tiny_t5_checkpoint::{Activation, Architecture, Checkpoint, Dtype, Error, ModelType, names};

/// Weights that are part of the program.
static BF16: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(goldens().join("bf16/model.safetensors")).unwrap());

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/goldens")
}

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(goldens()).expect("tests/data/goldens").map(|e| e.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 27, "{} golden folders", folders.len());
    folders
}

#[track_caller]
fn open(folder: &str) -> Checkpoint {
    Checkpoint::open(&goldens().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"))
}

/// Every tensor of a checkpoint: shape and bytes by name.
fn contents(checkpoint: &Checkpoint) -> BTreeMap<&str, (&[usize], &[u8])> {
    let tensor = |name| checkpoint.find(name).map(|t| (name, (t.shape, t.bytes)));
    checkpoint.names().filter_map(tensor).collect()
}

/// A copy of a golden folder's config and weights, to be spoilt.
fn copy_of(folder: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(goldens().join(folder)).unwrap() {
        let from = entry.unwrap().path();
        let name = from.file_name().unwrap();
        if name != "cases.json" {
            fs::write(copy.path().join(name), fs::read(&from).unwrap()).unwrap();
        }
    }
    copy
}

/// The one-line message of a folder that must not open.
#[track_caller]
fn message(dir: &Path) -> String {
    let message = Checkpoint::open(dir).expect_err("a spoilt folder opened").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn refused(dir: &Path, expected: &str) {
    let message = message(dir);
    assert!(message.contains(expected), "{message}");
}

// What is released.

#[test]
fn open_every_golden_folder_gives_checked_tensors() {
    for folder in folders() {
        let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut bytes = 0;
        for name in checkpoint.names() {
            let tensor = checkpoint.find(name).unwrap();
            assert_eq!(tensor.bytes.len(), tensor.shape.iter().product::<usize>() * tensor.dtype.size(), "{name}");
            bytes += tensor.bytes.len() as u64;
        }
        let aliases = 3 * 199 * 64 * 4; // of hub-like-bin
        assert!(checkpoint.bytes_on_disk() + aliases > bytes);
        let config = checkpoint.config();
        let shape = [config.num_heads * config.d_kv, config.d_model];
        checkpoint.tensor("encoder.block.0.layer.0.SelfAttention.q.weight", &shape, "").unwrap();
        checkpoint.release();
        let norm = checkpoint.tensor("encoder.final_layer_norm.weight", &[config.d_model], "").unwrap();
        assert!(norm.bytes.iter().any(|&b| b != 0), "readable again after release");
    }
}

#[test]
fn open_hub_like_bin_equals_the_same_weights_in_safetensors() {
    let (bin, reference) = (open("hub-like-bin"), open("v1_0-relu-tied"));
    let (bin, reference) = (contents(&bin), contents(&reference));
    for (name, tensor) in &reference {
        assert!(bin.get(name) == Some(tensor), "{name}"); // transposed, at an offset, as a parameter, as a view
    }
    for alias in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"] {
        assert!(bin[alias] == reference["shared.weight"], "{alias}");
    }
    let spurious = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    assert_eq!((bin.len(), bin[spurious].0), (reference.len() + 4, [32, 4].as_slice()));
}

#[test]
fn open_legacy_bin_equals_the_same_weights_in_a_zip() {
    let (legacy, zip) = (open("legacy-bin"), open("pytorch-bin"));
    assert!(contents(&legacy) == contents(&zip));
    assert_eq!(zip.names().count(), 47);
}

#[test]
fn open_shards_hold_the_tensors_of_a_whole_model() {
    for (folder, like) in [("sharded-bin", "v1_0-relu-tied"), ("sharded-safetensors", "v1_1-gated-gelu-untied")] {
        let (shards, whole) = (open(folder), open(like));
        let shapes = |c: &Checkpoint| c.names().map(|n| (n.to_owned(), c.find(n).unwrap().shape.to_vec())).collect();
        let (shards, whole): (BTreeMap<_, _>, BTreeMap<_, _>) = (shapes(&shards), shapes(&whole));
        assert_eq!(shards, whole, "{folder}");
    }
}

#[test]
fn open_16_bit_folders_keep_their_type() {
    for (folder, dtype) in [("bf16", Dtype::BF16), ("f16", Dtype::F16), ("mt5", Dtype::F32)] {
        assert_eq!(open(folder).find("shared.weight").unwrap().dtype, dtype);
    }
}

#[test]
fn open_heads_have_canonical_names_under_their_prefix() {
    let sequence = open("sequence-classification");
    sequence.tensor("classification_head.dense.weight", &[64, 64], "").unwrap();
    sequence.tensor("classification_head.out_proj.bias", &[5], "").unwrap();
    sequence.tensor("decoder.final_layer_norm.weight", &[64], "").unwrap();
    assert_eq!(sequence.config().labels.len(), 5);
    let token = open("token-classification");
    token.tensor("classifier.weight", &[4, 64], "").unwrap();
    token.tensor("shared.weight", &[199, 64], "").unwrap();
    open("question-answering").tensor("qa_outputs.bias", &[2], "").unwrap();
    assert!(!sequence.names().chain(token.names()).any(|name| name.starts_with("transformer.")));
}

#[test]
fn open_configs_are_read_as_transformers_reads_them() {
    let architecture = |folder| open(folder).config().architecture;
    assert_eq!(architecture("encoder-only"), Architecture::Encoder);
    assert_eq!(architecture("sequence-classification"), Architecture::SequenceClassification);
    assert_eq!(architecture("token-classification"), Architecture::TokenClassification);
    assert_eq!(architecture("question-answering"), Architecture::QuestionAnswering);
    assert_eq!(architecture("byt5-shape"), Architecture::ConditionalGeneration);
    assert_eq!(open("umt5-bias-in-every-layer").config().model_type, ModelType::Umt5);
    assert_eq!(open("start-id-2").config().decoder_start_token_id, 2);
    assert_eq!(open("activation-keys").config().activation, Activation::GeluNew);
    assert!(open("activation-keys").config().is_gated_act);
    assert_eq!(open("gated-silu").config().activation, Activation::Silu);
    assert!(open("v1_0-relu-tied").config().scale_decoder_outputs);
    for folder in ["v1_1-gated-gelu-untied", "saved-by-5", "mt5"] {
        assert!(!open(folder).config().scale_decoder_outputs, "{folder}");
    }
    assert_eq!(open("generation-keys-in-config").config().raw["num_beams"], 3);
    let minimal = open("minimal-config");
    assert_eq!(minimal.config().num_decoder_layers, 2);
    assert_eq!((minimal.generation_config(), minimal.dir()), (None, Some(goldens().join("minimal-config").as_path())));
}

#[test]
fn read_rows_are_those_of_the_tensor() {
    for folder in ["v1_0-relu-tied", "bf16", "hub-like-bin"] {
        let checkpoint = open(folder);
        for name in checkpoint.names() {
            let tensor = checkpoint.find(name).unwrap();
            let row = tensor.bytes.len() / tensor.shape[0];
            for i in [0, tensor.shape[0] / 2, tensor.shape[0] - 1] {
                let mut buffer = vec![0xff; row];
                assert_eq!(
                    tensor.read(i * row, &mut buffer),
                    &tensor.bytes[i * row..][..row],
                    "{folder}: {name}, row {i}"
                );
            }
        }
    }
}

#[test]
fn from_bytes_equals_open() {
    let dir = goldens().join("bf16");
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    let memory = Checkpoint::from_bytes(&config, Some("{}"), &BF16).unwrap();
    let disk = open("bf16");
    assert!(contents(&memory) == contents(&disk) && memory.config() == disk.config());
    assert_eq!((memory.generation_config(), memory.dir()), (Some("{}"), None));
    assert_eq!(memory.bytes_on_disk(), disk.bytes_on_disk());
    let norm = memory.find("encoder.final_layer_norm.weight").unwrap();
    assert!(BF16.as_ptr_range().contains(&norm.bytes.as_ptr()), "copied");
}

#[test]
fn from_owned_equals_open_and_keep_lets_go_of_all_but_the_kept() {
    /// Weights that show whether they are still there.
    struct Weights(std::sync::Arc<Vec<u8>>);
    impl AsRef<[u8]> for Weights {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let dir = goldens().join("bf16");
    let weights = std::sync::Arc::new(fs::read(dir.join("model.safetensors")).unwrap());
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    let mut memory = Checkpoint::from_owned(&config, None, Box::new(Weights(weights.clone()))).unwrap();
    let disk = open("bf16");
    assert!(contents(&memory) == contents(&disk) && memory.config() == disk.config());

    memory.keep(&["shared.weight", "no such tensor"]);
    assert_eq!(std::sync::Arc::strong_count(&weights), 1, "the weights are still there");
    assert_eq!(memory.names().collect::<Vec<_>>(), ["shared.weight"]);
    assert_eq!(contents(&memory)["shared.weight"], contents(&disk)["shared.weight"]);
    assert_eq!(memory.bytes_on_disk(), disk.bytes_on_disk());
}

#[test]
fn read_equals_open_and_does_not_care_what_becomes_of_the_files() {
    for folder in ["odd-sizes", "pytorch-bin", "legacy-bin", "sharded-safetensors"] {
        let copy = copy_of(folder);
        let read = Checkpoint::read(copy.path()).unwrap();
        for entry in fs::read_dir(copy.path()).unwrap() {
            fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        assert_eq!(contents(&read), contents(&open(folder)), "{folder}");
    }
}

#[test]
fn keep_leaves_weights_that_are_no_memory_of_their_own() {
    let dir = goldens().join("bf16");
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    let mut part_of_the_program = Checkpoint::from_bytes(&config, None, &BF16).unwrap();
    part_of_the_program.keep(&[]);
    assert!(contents(&part_of_the_program) == contents(&open("bf16")));
}

#[test]
#[cfg(unix)]
fn open_snapshot_of_links_into_blobs_loads() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--org--tiny");
    let snapshot = model.join("snapshots").join("0123abcd");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(model.join("blobs")).unwrap();
    for file in [
        "config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ] {
        let blob = model.join("blobs").join(format!("blob-{file}"));
        fs::copy(goldens().join("sharded-safetensors").join(file), blob).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/blob-{file}"), snapshot.join(file)).unwrap();
    }
    let checkpoint = Checkpoint::open(&names::resolve(snapshot.to_str().unwrap()).unwrap()).unwrap();
    assert!(contents(&checkpoint) == contents(&open("sharded-safetensors")));
}

#[test]
fn checkpoint_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Checkpoint>();
    shared::<Error>();
}

// What is wrong with a folder.

#[test]
fn tensor_of_another_shape_or_absent_says_what_was_expected() {
    let checkpoint = open("v1_0-relu-tied");
    let name = "decoder.block.0.layer.1.EncDecAttention.q.weight";
    let why = "num_heads 4 * d_kv 32, d_model 64 in config.json";
    assert_eq!(
        checkpoint.tensor(name, &[128, 64], why).unwrap_err().to_string(),
        format!("model.safetensors: {name} has shape [64, 64], expected [128, 64] ({why})")
    );
    assert_eq!(
        checkpoint.tensor("lm_head.weight", &[199, 64], "").unwrap_err().to_string(),
        "model.safetensors: has no tensor lm_head.weight, expected one of shape [199, 64]"
    );
    let missing = open("sharded-bin").tensor("lm_head.weight", &[1], "why").unwrap_err().to_string();
    assert!(missing.starts_with("pytorch_model.bin.index.json: has no tensor"), "{missing}");
}

#[test]
fn open_folder_without_weights_lists_what_was_looked_for() {
    let copy = copy_of("bf16");
    fs::rename(copy.path().join("model.safetensors"), copy.path().join("flax_model.msgpack")).unwrap();
    refused(
        copy.path(),
        "looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json; flax_model.msgpack cannot be read here",
    );
    fs::remove_file(copy.path().join("config.json")).unwrap();
    refused(copy.path(), "config.json: No such file");
    refused(&copy.path().join("absent"), "no such folder");
    refused(&copy.path().join("flax_model.msgpack"), "is a file");
}

#[test]
fn open_prefers_safetensors_to_a_bin() {
    let copy = copy_of("v1_0-relu-tied");
    fs::write(copy.path().join("pytorch_model.bin"), b"nothing").unwrap();
    Checkpoint::open(copy.path()).unwrap();
    fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    refused(copy.path(), "pytorch_model.bin: its start is");
}

#[test]
fn open_lfs_pointer_or_folder_in_place_of_weights_says_so() {
    let copy = copy_of("bf16");
    let weights = copy.path().join("model.safetensors");
    fs::write(&weights, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n").unwrap();
    refused(copy.path(), "a Git LFS pointer");
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    refused(copy.path(), "is not a regular file");
}

#[test]
fn open_weights_of_doubles_or_integers_names_tensor_and_type() {
    let copy = copy_of("bf16");
    let file = |name: &str, dtype: &str| {
        let header = format!(r#"{{"{name}": {{"dtype": "{dtype}", "shape": [1], "data_offsets": [0, 8]}}}}"#);
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
        fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
    };
    file("shared.weight", "F64");
    refused(copy.path(), "model.safetensors: shared.weight is stored as F64, expected F32, F16 or BF16");
    file("lm_head.weight", "I64");
    refused(copy.path(), "lm_head.weight is stored as I64");
    file("encoder.embed_positions", "I64");
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    assert!(checkpoint.find("encoder.embed_positions").is_none());
    let asked = checkpoint.tensor("encoder.embed_positions", &[1], "");
    assert!(matches!(asked, Err(Error::Dtype { .. })));
}

#[test]
fn open_name_with_and_without_prefix_is_a_duplicate() {
    let copy = copy_of("bf16");
    let header = r#"{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "transformer.a": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 8]].concat();
    fs::write(copy.path().join("model.safetensors"), bytes).unwrap();
    refused(copy.path(), "a is a second time in model.safetensors");
}

#[test]
fn attack_shards_that_lead_out_repeat_or_are_absent() {
    let copy = copy_of("sharded-safetensors");
    let index = copy.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    for elsewhere in ["../x", "/etc/passwd", "a/b", "..", "", "C:\\\\x"] {
        fs::write(&index, text.replacen("model-00001-of-00002.safetensors", elsewhere, 1)).unwrap();
        refused(copy.path(), "model.safetensors.index.json: the shard of ");
    }
    fs::write(&index, text.replace("model-00002-of-00002", "model-00003-of-00002")).unwrap();
    refused(copy.path(), "model-00003-of-00002.safetensors: No such file");
    for (wrong, expected) in [("{}", "weight_map"), (r#"{"weight_map": {}}"#, "weight_map is empty"), ("[", "JSON")] {
        fs::write(&index, wrong).unwrap();
        refused(copy.path(), expected);
    }
    // A tied tensor that no shard holds is no error until somebody asks for it.
    let tied = text.replacen(
        "\"weight_map\": {",
        "\"weight_map\": {\"tied.weight\": \"model-00001-of-00002.safetensors\",",
        1,
    );
    assert_ne!(tied, text);
    fs::write(&index, tied).unwrap();
    let checkpoint = Checkpoint::open(copy.path()).unwrap();
    assert!(checkpoint.find("tied.weight").is_none());
    // The same tensors in both shards.
    fs::write(&index, &text).unwrap();
    let [first, second] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    fs::copy(copy.path().join(first), copy.path().join(second)).unwrap();
    refused(copy.path(), "is a second time in model-00002-of-00002.safetensors");
}

#[test]
fn attack_texts_too_large_are_refused_unread() {
    let copy = copy_of("bf16");
    fs::write(copy.path().join("generation_config.json"), " ".repeat(2 << 20)).unwrap();
    refused(copy.path(), "generation_config.json: its size in bytes is");
    fs::write(copy.path().join("config.json"), " ".repeat(3 << 20)).unwrap();
    refused(copy.path(), "config.json: its size in bytes is");
    fs::write(copy.path().join("config.json"), [0xff; 8]).unwrap();
    refused(copy.path(), "config.json: is not valid JSON of the expected form: not UTF-8 after byte 0");
}

#[test]
fn resolve_name_that_is_not_cached_says_how_to_get_it() {
    let message = names::resolve("no-such-organisation/no-such-model").unwrap_err().to_string();
    assert!(message.contains("`hf download no-such-organisation/no-such-model`"), "{message}");
    assert!(matches!(names::resolve("./no/such/folder"), Err(Error::NoFolder { .. })));
}

// Every file, truncated and changed.

/// Seeded places and values (xorshift64).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A place in a file; mostly in its first or last bytes, where headers and directories are.
    fn place(&mut self, len: usize) -> usize {
        let (near, len) = (8192.min(len), len.max(1));
        match self.next() % 4 {
            0 => self.next() as usize % len,
            1 | 2 => self.next() as usize % near.max(1),
            _ => len - 1 - self.next() as usize % near.max(1),
        }
    }

    fn spoil(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        let at = self.place(bytes.len());
        match self.next() % 5 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (self.next() % 8),
            2 => bytes[at] = self.next() as u8,
            3 => bytes.iter_mut().skip(at).take(8).for_each(|b| *b = 0xff),
            _ => drop(bytes.splice(at..at, [self.next() as u8])),
        }
        bytes
    }
}

#[test]
fn mutated_files_give_an_error_or_load_and_never_panic() {
    let mut seeded = Seeded(0x9e37_79b9_7f4a_7c15);
    let (mut loaded, mut refused) = (0, 0);
    for folder in
        ["odd-sizes", "sequence-classification", "hub-like-bin", "legacy-bin", "sharded-bin", "sharded-safetensors"]
    {
        let copy = copy_of(folder);
        let files: Vec<_> = fs::read_dir(copy.path()).unwrap().map(|e| e.unwrap().path()).collect();
        for file in files {
            let good = fs::read(&file).unwrap();
            for _ in 0..300 {
                let spoilt = seeded.spoil(&good);
                // A new file each time: the old one may be mapped. Rewriting is what `open` forbids.
                fs::remove_file(&file).unwrap();
                fs::write(&file, &spoilt).unwrap();
                let start = Instant::now();
                match Checkpoint::open(copy.path()) {
                    Ok(checkpoint) => {
                        let tensors = contents(&checkpoint);
                        assert!(tensors.values().all(|(shape, bytes)| bytes.len() >= shape.iter().product()));
                        loaded += 1;
                    }
                    Err(error) => {
                        let message = error.to_string();
                        assert!(!message.contains('\n') && message.len() < 4000, "{message}");
                        refused += 1;
                    }
                }
                assert!(start.elapsed() < Duration::from_secs(1), "{}", file.display());
            }
            fs::remove_file(&file).unwrap();
            fs::write(&file, &good).unwrap();
        }
        Checkpoint::open(copy.path()).unwrap();
    }
    println!("{loaded} loaded, {refused} refused");
    assert!(loaded > 500 && refused > 500, "{loaded} loaded, {refused} refused");
}

#[test]
fn truncated_files_are_refused_at_every_length_of_their_headers() {
    for (folder, name) in [
        ("odd-sizes", "model.safetensors"),
        ("hub-like-bin", "pytorch_model.bin"),
        ("legacy-bin", "pytorch_model.bin"),
        ("sharded-bin", "pytorch_model.bin.index.json"),
    ] {
        let copy = copy_of(folder);
        let file = copy.path().join(name);
        let good = fs::read(&file).unwrap();
        // Around the start, around the end, and each 997th byte between.
        let len = good.len();
        let ends = (0..300).chain((300..len).step_by(997)).chain(len.saturating_sub(300)..len - 1);
        for end in ends {
            fs::remove_file(&file).unwrap();
            fs::write(&file, &good[..end]).unwrap();
            assert!(Checkpoint::open(copy.path()).is_err(), "{folder} cut after {end} of {len} bytes");
        }
    }
}

// Memory.

/// Not a test of its own: opens a folder in a process of its own, so that the parent can see what that took.
#[test]
#[ignore = "run by hostile_folders_take_little_memory_and_time"]
#[cfg(target_os = "linux")]
fn child_opens_one_folder() {
    let dir = std::env::var("TINY_T5_TEST_FOLDER").unwrap();
    let start = Instant::now();
    let outcome = Checkpoint::open(Path::new(&dir)).map(|c| c.names().count()).map_err(|e| e.to_string());
    let seconds = start.elapsed().as_secs_f32();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim();
    println!("\nresult {} {seconds} {outcome:?}", peak.trim_end_matches(" kB"));
}

#[test]
#[cfg(target_os = "linux")]
fn hostile_folders_take_little_memory_and_time() {
    let entry = |i: usize| format!(r#""{i}":{{"dtype":"U8","shape":[],"data_offsets":[{i},{}]}}"#, i + 1);
    let entries: Vec<_> = (0..66_000).map(entry).collect();
    let safetensors = |header: &str| [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let list = |item: &str, n: usize| format!("[{}{item}]", format!("{item},").repeat(n));
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    let legacy = |object: &[u8]| [magic.as_slice(), b"\x80\x02)q\x00", object].concat();
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("many tensors", "model.safetensors", safetensors(&format!("{{{}}}", entries.join(",")))),
        ("wide shape", "model.safetensors", safetensors(&format!(r#"{{"a":{{"shape":{}}}}}"#, list("1", 2_000_000)))),
        ("deep header", "model.safetensors", safetensors(&"{\"a\":".repeat(800_000))),
        ("config of lists", "config.json", format!(r#"{{"x":{}}}"#, list("[]", 690_000)).into_bytes()),
        ("config of numbers", "config.json", format!(r#"{{"x":{}}}"#, list("0", 1_040_000)).into_bytes()),
        (
            "long index",
            "model.safetensors.index.json",
            format!(
                r#"{{"weight_map":{{{}}}}}"#,
                (0..200_000).map(|i| format!(r#""{i}":"{i}""#)).collect::<Vec<_>>().join(",")
            )
            .into_bytes(),
        ),
        ("stack", "pytorch_model.bin", legacy(&b"h\0".repeat(4_000_000))),
        ("containers", "pytorch_model.bin", legacy(&b"]".repeat(8_000_000))),
        ("tuples", "pytorch_model.bin", legacy(&b"h\0h\0\x86q\0".repeat(1_000_000))),
        ("memo", "pytorch_model.bin", legacy(&b"\x94".repeat(8_000_000))),
    ];
    for (what, file, bytes) in cases {
        let copy = copy_of("bf16");
        if file != "config.json" {
            fs::remove_file(copy.path().join("model.safetensors")).unwrap();
        }
        fs::write(copy.path().join(file), &bytes).unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_opens_one_folder", "--ignored", "--nocapture", "--test-threads=1"])
            .env("TINY_T5_TEST_FOLDER", copy.path())
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout).into_owned();
        let result = output.lines().find_map(|line| line.strip_prefix("result ")).expect(&output);
        println!("{what}, {} bytes: {}", bytes.len(), result.chars().take(200).collect::<String>());
        let mut numbers = result.split(' ').map(|n| n.parse::<f32>());
        let (peak_kb, seconds) = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
        assert!(peak_kb * 1024.0 < bytes.len() as f32 + 64e6, "{what}: {peak_kb} kB");
        assert!(seconds < 1.0, "{what}: {seconds} s");
    }
}
