//! What each fuzz target does with its bytes. `tests/fuzz_corpus.rs` replays the committed inputs through the same functions.
//!
//! A target may give any error or any answer. It fails on a panic, on what an answer cannot be (an id out of the vocabulary,
//! an error of two lines), and where its memory goes beyond the input's size and 64 MB.

use serde_json::{Map, Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use tiny_t5::tokenizer::Tokenizer;
use tiny_t5::{Dtype, Generate, Load, T5};
use tiny_t5_checkpoint::{Checkpoint, Config, PanelCache};
use twox_hash::XxHash3_128;

/// A function that reads bytes which nobody vouches for.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program and of its folder in `tests/data/fuzz`.
pub const TARGETS: [(&str, Target); 11] = [
    ("config", config),
    ("generation_config", generation_config),
    ("safetensors", safetensors),
    ("zip", zip),
    ("pickle", pickle),
    ("legacy", legacy),
    ("shards", shards),
    ("tokenizer_json", tokenizer_json),
    ("spiece", spiece),
    ("panel_cache", panel_cache),
    ("folder", folder),
];

/// Bytes beyond an input's own that a target may take.
const MOST_MEMORY: usize = 64 << 20;

/// The system's allocator, counting: what is allocated now, and the most since [`check`] began.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn grown(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: as the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs a target on an input, and holds it to the memory that it may take.
pub fn check(target: Target, input: &[u8]) {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    target(input);
    let took = MOST.load(Ordering::Relaxed).saturating_sub(before);
    assert!(took <= input.len() + MOST_MEMORY, "{took} bytes of memory for an input of {}", input.len());
}

/// The files of the smallest model that generates: two blocks, 13 words.
const CONFIG: &str = include_str!("../../../tests/data/cases/below-one-vector/config.json");
const WEIGHTS: &[u8] = include_bytes!("../../../tests/data/cases/below-one-vector/model.safetensors");

fn one_thread() -> Load {
    Load { threads: Some(1), ..Load::default() }
}

/// The answer; none for an error, which must be one line.
fn answer<T>(result: Result<T, impl Display>) -> Option<T> {
    let error = match result {
        Ok(answer) => return Some(answer),
        Err(error) => error.to_string(),
    };
    assert!(!error.chars().any(char::is_control), "more than one line: {error:?}");
    assert!(error.len() < 4000, "{} bytes: {error}", error.len());
    None
}

/// Reads every byte of every tensor.
fn touch(opened: Result<Checkpoint, tiny_t5_checkpoint::Error>) {
    let Some(checkpoint) = answer(opened) else { return };
    for name in checkpoint.names() {
        if let Some(tensor) = checkpoint.find(name) {
            let size = tensor.shape.iter().product::<usize>() * tensor.dtype.size();
            assert_eq!(tensor.bytes.len(), size, "{name}");
            std::hint::black_box(tensor.bytes.iter().fold(0u8, |sum, byte| sum ^ byte));
        }
    }
}

/// Two tokens from a model, whatever it says about generation, and its states and logits.
fn use_model(t5: &T5, source: &[u32], options: &Generate) {
    let options = Generate { max_new_tokens: Some(2), ..options.clone() };
    let known = |id: &u32| (*id as usize) < t5.config().vocab_size;
    for answer in answer(t5.generate_batch(&[source.into(), source.into()], &options)).unwrap_or_default() {
        for sequence in &answer.sequences {
            assert!(sequence.ids.len() <= 2 && sequence.ids.iter().all(known), "{:?}", sequence.ids);
        }
    }
    if let Some(stream) = answer(t5.stream(source, &options)) {
        for step in stream {
            answer(step);
        }
    }
    answer(t5.encode(source));
    answer(t5.classify(source));
    answer(t5.logits(source, &[0]));
}

/// config.json.
pub fn config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    answer(Config::parse(text));
}

/// generation_config.json, and a model that obeys it.
pub fn generation_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(t5) = answer(T5::from_bytes(CONFIG, Some(text), WEIGHTS, None, &one_thread())) {
        use_model(&t5, &[5, 9, 7, 1], &Generate::default());
    }
}

/// A safetensors file: as it is; and as a header, behind two bytes that say how many bytes of data follow it.
pub fn safetensors(input: &[u8]) {
    touch(Checkpoint::from_owned(CONFIG, None, Box::new(input.to_vec())));
    if let Some((size, header)) = input.split_first_chunk() {
        let data = vec![0; u16::from_le_bytes(*size).into()];
        let file = [&(header.len() as u64).to_le_bytes(), header, &data].concat();
        touch(Checkpoint::from_owned(CONFIG, None, Box::new(file)));
    }
}

/// Opens a folder of these files.
fn open(files: &[(&str, &[u8])]) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    write(dir.path(), files);
    touch(Checkpoint::open(dir.path()));
}

fn write(dir: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).expect("room for temporary files");
    }
}

/// pytorch_model.bin.
pub fn zip(input: &[u8]) {
    open(&[("config.json", CONFIG.as_bytes()), ("pytorch_model.bin", input)]);
}

/// The pickle of a pytorch_model.bin whose zip is sound, with storages of 64 bytes under the keys 0 to 3.
pub fn pickle(input: &[u8]) {
    let storage: Vec<u8> = (0..64).collect();
    let storages = ["archive/data/0", "archive/data/1", "archive/data/2", "archive/data/3"];
    let records = [("archive/data.pkl", input)].into_iter().chain(storages.map(|name| (name, &storage[..])));
    zip(&zip_of(records));
}

/// Stored records, one after another, and their directory.
fn zip_of<'a>(records: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let (mut file, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for (name, data) in records {
        let (at, size, name_len) = (file.len() as u32, (data.len() as u32).to_le_bytes(), name.len() as u16);
        let sizes = [&[0; 12][..], &size, &size, &name_len.to_le_bytes(), &[0; 2]].concat();
        file.extend([b"PK\x03\x04\0\0", &sizes[..], name.as_bytes(), data].concat());
        let place = [&[0; 10][..], &at.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\0\0\0\0", &sizes[..], &place, name.as_bytes()].concat());
        count += 1;
    }
    let (at, size, count) = (file.len() as u32, directory.len() as u32, count.to_le_bytes());
    let end = [&[0; 4][..], &count, &count, &size.to_le_bytes(), &at.to_le_bytes(), &[0; 2]].concat();
    [&file[..], &directory, b"PK\x05\x06", &end].concat()
}

/// A file as `torch.save` wrote it before PyTorch 1.6, behind what tells that form.
pub fn legacy(input: &[u8]) {
    let begin = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    zip(&[begin, input].concat());
}

/// The index of shards, beside two shards with a tensor each.
pub fn shards(input: &[u8]) {
    let shard = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 4]].concat()
    };
    open(&[
        ("config.json", CONFIG.as_bytes()),
        ("a.safetensors", &shard("a")),
        ("b.safetensors", &shard("b")),
        ("model.safetensors.index.json", input),
    ]);
}

fn use_tokenizer(opened: Result<Tokenizer, tiny_t5::tokenizer::TokenizerError>) {
    let Some(tokenizer) = answer(opened) else { return };
    for text in ["Hello <extra_id_0>. Ünïcode ½ ﬁ 日本 e\u{301}\r\n", ""] {
        if let Some(ids) = answer(tokenizer.encode(text)) {
            answer(tokenizer.decode(&ids, true));
        }
    }
    answer(tokenizer.decode(&[0, 1, 2, 3, 250, u32::MAX], false));
}

/// tokenizer.json.
pub fn tokenizer_json(input: &[u8]) {
    use_tokenizer(Tokenizer::from_json(input, None));
}

/// spiece.model.
pub fn spiece(input: &[u8]) {
    use_tokenizer(Tokenizer::from_spiece(input, None));
}

/// An entry of the panel cache: as a file whose sum nobody checks; and laid over the sound entry of a model, with a right sum.
pub fn panel_cache(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    write(dir.path(), &[("config.json", CONFIG.as_bytes()), ("model.safetensors", WEIGHTS)]);

    let cache = dir.path().join("cache");
    let checkpoint = Checkpoint::open(dir.path()).expect("a sound checkpoint");
    let no_sum = &|_: &[u8]| 0;
    let entries = PanelCache::open(&cache, &checkpoint, "fuzz", no_sum).expect("a sound folder").expect("files");
    entries.put("x", b"", b"", no_sum).expect("room for temporary files");
    change_entry(&cache, |_| input.to_vec());
    if let Some(panels) = entries.get("x", no_sum) {
        assert!(panels.notes().len() + panels.data().len() <= input.len());
    }

    let panels = dir.path().join("panels");
    let load = Load { cache: Some(panels.clone()), ..one_thread() };
    T5::open_with(dir.path(), &load).expect("a sound checkpoint");
    change_entry(&panels, |sound| entry_with_right_sum(sound, input));
    if let Some(t5) = answer(T5::open_with(dir.path(), &load)) {
        use_model(&t5, &[5, 9, 7, 1], &Generate::default());
    }
}

/// A sound entry, changed: a byte says how many bytes of data are cut off; the rest is laid over notes and data.
fn entry_with_right_sum(sound: Vec<u8>, input: &[u8]) -> Vec<u8> {
    let (&cut, over) = input.split_first().unwrap_or((&0, &[]));
    let length = u64::from_le_bytes(*sound[16..].first_chunk().expect("a header")) as usize;
    let (mut notes, mut data) =
        (sound[48..48 + length].to_vec(), sound[(48 + length).next_multiple_of(4096)..].to_vec());
    data.truncate(data.len().saturating_sub(cut.into()));
    notes.iter_mut().chain(&mut data).zip(over).for_each(|(byte, over)| *byte ^= over);
    // The engine's sum, of less than a megabyte.
    let sum = |bytes: &[u8]| XxHash3_128::oneshot(&XxHash3_128::oneshot(bytes).to_be_bytes());
    let total = sum(&[sum(&notes).to_le_bytes(), sum(&data).to_le_bytes()].concat()).to_le_bytes();
    let sizes = [(length as u64).to_le_bytes(), (data.len() as u64).to_le_bytes()].concat();
    let mut entry = [&b"tiny-t5 panels 1"[..], &sizes, &total, &notes].concat();
    entry.resize(entry.len().next_multiple_of(4096), 0);
    [entry, data].concat()
}

fn change_entry(cache: &Path, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    for entry in fs::read_dir(cache).expect("the cache's folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "panels") {
            let changed = change(fs::read(&path).expect("a file of ours"));
            // A new file: the old one may be mapped.
            fs::remove_file(&path).expect("a file of ours");
            fs::write(&path, changed).expect("room for temporary files");
        }
    }
}

/// Takes choices from the front of the input; zeros when it is used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers that are easy to get wrong.
const STRANGE: [f32; 16] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-40,
    0.0,
    -0.0,
    65_504.0,
    70_000.0,
    3e38,
    1e-8,
    1.0,
    -1.0,
];

/// A whole checkpoint folder whose shape, keys, tensors and numbers the input chooses: mostly one that fits together.
pub fn folder(input: &[u8]) {
    let mut c = Choices(input);
    let dir = tempfile::tempdir().expect("a folder for temporary files");
    let (config, tensors) = chosen_checkpoint(&mut c);
    write(dir.path(), &[("config.json", config.to_string().as_bytes())]);
    match c.below(4) {
        0 => {
            let (a, b) = tensors.split_at(tensors.len() / 2);
            let map =
                |part: &[Chosen], file: &str| part.iter().map(|t| (t.name.clone(), json!(file))).collect::<Vec<_>>();
            let map: Map<_, _> = [map(a, "a.safetensors"), map(b, "b.safetensors")].concat().into_iter().collect();
            let index = json!({"weight_map": map}).to_string();
            let files: [(&str, &[u8]); 3] = [
                ("a.safetensors", &safetensors_of(a)),
                ("b.safetensors", &safetensors_of(b)),
                ("model.safetensors.index.json", index.as_bytes()),
            ];
            write(dir.path(), &files);
        }
        _ => write(dir.path(), &[("model.safetensors", &safetensors_of(&tensors))]),
    }
    let dtype = c.pick(&[Dtype::Auto, Dtype::Auto, Dtype::Bf16, Dtype::F16, Dtype::Int8]);
    let cache = c.pick(&[false, false, false, true]).then(|| dir.path().join("cache"));
    let load = Load { dtype, cache, ..one_thread() };
    let Some(t5) = answer(T5::open_with(dir.path(), &load)) else { return };
    let vocabulary = t5.config().vocab_size;
    let source: Vec<u32> = (0..c.below(40)).map(|_| c.below(vocabulary + 1) as u32).collect();
    let options = Generate {
        num_beams: c.pick(&[None, Some(1), Some(2), Some(5)]),
        do_sample: c.pick(&[None, Some(true)]),
        top_k: c.pick(&[None, Some(0), Some(1), Some(3)]),
        top_p: c.pick(&[None, Some(0.5), Some(1.0)]),
        typical_p: c.pick(&[None, None, Some(0.5)]),
        eta_cutoff: c.pick(&[None, None, Some(0.5)]),
        repetition_penalty: c.pick(&[None, Some(1.5)]),
        remove_invalid_values: c.pick(&[None, Some(true)]),
        top_logprobs: c.pick(&[None, None, Some(0), Some(3)]),
        ..Generate::default()
    };
    use_model(&t5, &source, &options);
}

struct Chosen {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn safetensors_of(tensors: &[Chosen]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Chosen { name, dtype, shape, bytes } in tensors {
        let place = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": place}));
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn chosen_checkpoint(c: &mut Choices<'_>) -> (Value, Vec<Chosen>) {
    let (vocabulary, width, d_kv, heads) = (1 + c.below(40), 1 + c.below(40), 1 + c.below(20), 1 + c.below(4));
    let (ff, encoder, decoder, buckets) = (1 + c.below(40), 1 + c.below(2), 1 + c.below(2), 4 + c.below(40));
    let projection = c.pick(&["relu", "gated-gelu", "gated-silu", "gelu", "gated-relu"]);
    let model_type = c.pick(&["t5", "mt5", "umt5"]);
    let architecture = c.pick(&[
        "T5ForConditionalGeneration",
        "T5EncoderModel",
        "T5ForSequenceClassification",
        "T5ForTokenClassification",
        "T5ForQuestionAnswering",
        "",
    ]);
    let mut config = json!({
        "vocab_size": vocabulary, "d_model": width, "d_kv": d_kv, "num_heads": heads, "d_ff": ff, "num_layers": encoder,
        "num_decoder_layers": decoder, "relative_attention_num_buckets": buckets, "feed_forward_proj": projection,
        "relative_attention_max_distance": buckets + c.below(100), "model_type": model_type,
        "layer_norm_epsilon": c.pick(&[1e-6, 0.0, 1e-2, 1e30]), "num_labels": c.below(4),
        "eos_token_id": c.below(vocabulary + 1),
    });
    if !architecture.is_empty() {
        config["architectures"] = json!([architecture]);
    }
    if let Some(tied) = c.pick(&[None, Some(true), Some(false)]) {
        config["tie_word_embeddings"] = json!(tied);
    }

    let mut shapes = vec![("shared.weight".to_owned(), vec![vocabulary, width])];
    for (stack, blocks) in [("encoder", encoder), ("decoder", decoder)] {
        for block in 0..blocks {
            let name = |layer: usize, rest: &str| format!("{stack}.block.{block}.layer.{layer}.{rest}.weight");
            let attentions: &[&str] =
                if stack == "encoder" { &["SelfAttention"] } else { &["SelfAttention", "EncDecAttention"] };
            for (layer, attention) in attentions.iter().enumerate() {
                shapes.push((name(layer, "layer_norm"), vec![width]));
                for part in ["q", "k", "v"] {
                    shapes.push((name(layer, &format!("{attention}.{part}")), vec![heads * d_kv, width]));
                }
                shapes.push((name(layer, &format!("{attention}.o")), vec![width, heads * d_kv]));
            }
            if block == 0 || model_type == "umt5" {
                shapes.push((name(0, "SelfAttention.relative_attention_bias"), vec![buckets, heads]));
            }
            let last = attentions.len();
            shapes.push((name(last, "layer_norm"), vec![width]));
            let inner: &[&str] = if projection.starts_with("gated") { &["wi_0", "wi_1"] } else { &["wi"] };
            for wi in inner {
                shapes.push((name(last, &format!("DenseReluDense.{wi}")), vec![ff, width]));
            }
            shapes.push((name(last, "DenseReluDense.wo"), vec![width, ff]));
        }
        shapes.push((format!("{stack}.final_layer_norm.weight"), vec![width]));
    }
    let labels = config["num_labels"].as_u64().unwrap_or(0) as usize;
    let mut linear = |name: &str, rows: usize| {
        shapes.push((format!("{name}.weight"), vec![rows, width]));
        shapes.push((format!("{name}.bias"), vec![rows]));
    };
    match architecture {
        "T5ForSequenceClassification" => {
            linear("classification_head.dense", width);
            linear("classification_head.out_proj", labels);
        }
        "T5ForTokenClassification" => linear("classifier", labels),
        "T5ForQuestionAnswering" => linear("qa_outputs", 2),
        _ if c.below(2) == 0 => shapes.push(("lm_head.weight".to_owned(), vec![vocabulary, width])),
        _ => {}
    }
    // One in a few is wrong in one place.
    let at = c.below(shapes.len());
    match c.below(8) {
        0 => drop(shapes.swap_remove(at)),
        1 => shapes[at].1.push(1),
        2 => shapes[at].1[0] += 1,
        3 => config["d_model"] = json!(width + 1),
        _ => {}
    }

    let (usual, strange_every, seed) = (c.pick(&["F32", "F16", "BF16"]), c.pick(&[0, 0, 3, 50, 1000]), c.byte());
    let size = c.pick(&[1.0, 0.05, 30.0, 1e4, 1e20, 1e-42]);
    let odd = c.pick(&[None, Some("F32"), Some("F16"), Some("I64")]);
    let odd_at = c.below(shapes.len());
    let mut random = u64::from(seed);
    let mut number = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match strange_every {
            n if n > 0 && (random >> 33) % n == 0 => STRANGE[(random >> 60) as usize],
            _ => ((random >> 40) as f32 / (1 << 23) as f32 - 1.0) * size,
        }
    };
    let tensor = |(at, (name, shape)): (usize, (String, Vec<usize>))| {
        let dtype = odd.filter(|_| at == odd_at).unwrap_or(usual);
        let numbers = (0..shape.iter().product()).map(|_| number());
        let bytes = match dtype {
            "F32" => numbers.flat_map(f32::to_le_bytes).collect(),
            // The upper half of an f32; as an f16 it is some other number.
            "F16" | "BF16" => numbers.flat_map(|x| [x.to_le_bytes()[2], x.to_le_bytes()[3]]).collect(),
            _ => numbers.flat_map(|x| f64::from(x).to_le_bytes()).collect(),
        };
        Chosen { name, dtype, shape, bytes }
    };
    let tensors = shapes.into_iter().enumerate().map(tensor).collect();
    (config, tensors)
}
