//! The shapes of the family by name: their counts equal the tensors of checkpoints of that shape, and published numbers.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use tempfile::TempDir;
use tiny_t5::{Config, DecodedToken, Flops, Parameters, Shape, T5, family};
use tiny_t5_checkpoint::Checkpoint;

#[track_caller]
fn named(name: &str) -> Shape {
    Shape::named(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[track_caller]
fn refusal(name: &str) -> String {
    Shape::named(name).expect_err(name).to_string()
}

/// The tensors of transformers' module of this shape, written down here once more: no number of the library is used.
fn tensors(c: &Config, own_head: bool) -> BTreeMap<String, Vec<usize>> {
    let (d, inner, ff) = (c.d_model, c.num_heads * c.d_kv, c.d_ff);
    let mut tensors = BTreeMap::from([("shared.weight".to_owned(), vec![c.vocab_size, d])]);
    if own_head {
        tensors.insert("lm_head.weight".to_owned(), vec![c.vocab_size, d]);
    }
    for (stack, blocks) in [("encoder", c.num_layers), ("decoder", c.num_decoder_layers)] {
        tensors.insert(format!("{stack}.final_layer_norm.weight"), vec![d]);
        for block in 0..blocks {
            let mut layers = vec!["SelfAttention", "DenseReluDense"];
            if stack == "decoder" {
                layers.insert(1, "EncDecAttention");
            }
            for (i, layer) in layers.iter().enumerate() {
                let layer_name = format!("{stack}.block.{block}.layer.{i}");
                tensors.insert(format!("{layer_name}.layer_norm.weight"), vec![d]);
                let mut add = |part: &str, shape: [usize; 2]| {
                    tensors.insert(format!("{layer_name}.{layer}.{part}.weight"), shape.to_vec());
                };
                if *layer == "DenseReluDense" {
                    let up: &[&str] = if c.is_gated_act { &["wi_0", "wi_1"] } else { &["wi"] };
                    up.iter().for_each(|part| add(part, [ff, d]));
                    add("wo", [d, ff]);
                } else {
                    ["q", "k", "v"].iter().for_each(|part| add(part, [inner, d]));
                    add("o", [d, inner]);
                }
                if *layer == "SelfAttention" && (block == 0 || c.raw["model_type"] == "umt5") {
                    add("relative_attention_bias", [c.relative_attention_num_buckets, c.num_heads]);
                }
            }
        }
    }
    tensors
}

/// A bfloat16 checkpoint of these tensors. The file has holes for its numbers, so it takes no room and every number is zero.
fn checkpoint(config: &Config, tensors: &BTreeMap<String, Vec<usize>>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), Value::Object(config.raw.clone()).to_string()).unwrap();
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(folder.path().join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    folder
}

#[test]
fn parameters_equal_the_numbers_of_a_checkpoint_of_that_shape() {
    /// Numbers up to which the engine loads the checkpoint too, and must find each tensor and no other.
    const LOADED: u64 = 80_000_000;
    let mut loaded = 0;
    for name in [
        "t5-efficient-tiny",
        "t5-efficient-tiny-nl32",
        "t5-efficient-tiny-ff12000",
        "t5-efficient-tiny-nh1",
        "t5-efficient-mini-nl6",
        "t5-efficient-small-el16-dl2",
        "t5-efficient-small-dm1000",
        "t5-efficient-small-kv16",
        "t5-efficient-small-el2",
        "t5-efficient-base",
        "t5-efficient-large-nh8-nl32",
        "t5-efficient-large",
        "t5-small",
        "t5-v1_1-small",
        "flan-t5-base",
        "mt5-small",
        "umt5-small",
    ] {
        let shape = named(name);
        let tensors = tensors(&shape.config, shape.own_head);
        let folder = checkpoint(&shape.config, &tensors);
        let opened = Checkpoint::open(folder.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let numbers = |of: &dyn Fn(&str) -> bool| {
            let found = opened.names().filter(|name| of(name)).map(|name| opened.find(name).unwrap());
            found.map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum::<u64>()
        };
        let parameters = shape.parameters();
        assert_eq!(parameters.total(), numbers(&|_| true), "{name}");
        assert_eq!(parameters.embedding, numbers(&|tensor| tensor == "shared.weight"), "{name}");
        assert_eq!(parameters.encoder, numbers(&|tensor| tensor.starts_with("encoder.")), "{name}");
        assert_eq!(parameters.decoder, numbers(&|tensor| tensor.starts_with("decoder.")), "{name}");
        assert_eq!(parameters.head, numbers(&|tensor| tensor == "lm_head.weight"), "{name}");
        if parameters.total() < LOADED {
            let t5 = T5::open(folder.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((t5.unused_tensors(), t5.notes()), (&[][..], &[][..]), "{name}");
            // An output matrix of zeros is the embedding of zeros once more, which the engine does not count twice.
            let Parameters { embedding, encoder, decoder, .. } = parameters;
            let found = t5.parameters();
            assert_eq!((found.embedding, found.encoder, found.decoder), (embedding, encoder, decoder), "{name}");
            assert_eq!(found.head, 0, "{name}");
            assert_eq!(t5.flops(64, 32), shape.flops(64, 32), "{name}");
            loaded += 1;
        }
    }
    assert!(loaded >= 9, "{loaded}");
}

#[test]
fn parameters_are_the_published_ones() {
    for (name, total) in [
        ("t5-efficient-tiny", 15_570_688),
        ("t5-efficient-tiny-nl32", 66_986_752),
        ("t5-efficient-large", 737_668_096),
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("t5-11b", 11_307_321_344),
        ("google/flan-t5-small", 76_961_152),
        ("mt5-small", 300_176_768),
        ("google/byt5-small", 299_637_760),
        ("byt5-base", 581_653_248),
        ("google/t5-xl-lm-adapt", 2_849_757_184),
    ] {
        assert_eq!(named(name).parameters().total(), total, "{name}");
    }
    // Published rounded, and a little high: 15.58 M for tiny.
    for (name, millions, within) in [
        ("t5-efficient-tiny", 15.58, 0.02),
        ("t5-efficient-small-nl16", 134.0, 0.5),
        ("t5-efficient-base-nl36", 621.0, 2.0),
        ("t5-efficient-xl-nl32", 3800.0, 50.0),
        ("byt5-large", 1230.0, 5.0),
        ("byt5-xl", 3740.0, 10.0),
        ("byt5-xxl", 12_900.0, 30.0),
    ] {
        let found = named(name).parameters().total() as f64 / 1e6;
        assert!((found - millions).abs() <= within, "{name}: {found}, expected {millions}");
    }
}

#[test]
fn flops_are_counted_causally() {
    let (small, base) = (named("t5-efficient-small-nl16"), named("t5-efficient-base"));
    let causal = |shape: &Shape| shape.flops(512, 512).total();
    // Scores and sums of values over all 512 x 512 pairs instead of those that a position sees.
    let squared = |shape: &Shape| {
        let c = &shape.config;
        let unseen = 512 * 511 / 2;
        causal(shape) + (c.num_decoder_layers * 2 * 2 * c.num_heads * c.d_kv * unseen) as u64
    };
    let share = |count: &dyn Fn(&Shape) -> u64| format!("{:.3}", count(&small) as f64 / count(&base) as f64);
    assert_eq!((share(&causal), share(&squared)), ("0.628".into(), "0.633".into()));
}

#[test]
fn decoded_token_reads_the_decoder_without_the_cross_k_v_and_the_output_matrix() {
    let shape = named("t5-efficient-tiny");
    let token = shape.decoded_token(10, 1);
    assert_eq!(token, DecodedToken::of(&shape.config, 10, 1));
    let Flops { decoder, head, .. } = shape.flops(10, 1);
    assert_eq!(token.flops, decoder + head);
    let [cross, output] = [4 * 2 * 256 * 256, 32_128 * 256];
    assert_eq!(token.weights, shape.parameters().decoder - cross + output);
    // Keys and values of 10 source tokens and of the token itself.
    assert_eq!(token.cached, 4 * 2 * 256 * 11);
    assert_eq!(token.bytes(2), 2 * token.weights + 4 * token.cached);
    assert_eq!(token.bytes(1), token.weights + 2 * token.cached);
    assert_eq!(token.intensity(2), token.flops as f64 / token.bytes(2) as f64);
    // The mean over the target; a target of nothing has no mean.
    assert_eq!(shape.decoded_token(10, 3).cached, 4 * 2 * 256 * 12);
    assert_eq!(shape.decoded_token(10, 0), token);
    assert_eq!(shape.decoded_token(u64::MAX, u64::MAX).cached, u64::MAX);
}

#[test]
fn named_refuses_both_depths_behind_one() {
    assert!(Shape::named("t5-efficient-small-el16-nl8").is_err());
    assert_eq!(named("t5-efficient-small-nl8-el16").config.num_layers, 16);
}

#[test]
fn named_takes_every_name_of_the_family_and_says_what_is_special() {
    let names = family(true);
    assert!(names.len() > 150, "{}", names.len());
    assert!(family(false).iter().all(|name| names.contains(name)));
    for name in &names {
        let shape = named(name);
        assert_eq!(&shape.name, name);
        let shared = ["-sh", "-skv", "-shkv"].iter().any(|suffix| name.ends_with(suffix));
        assert_eq!(shape.loads, !shared, "{name}");
    }
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());

    let tiny = named("t5-efficient-tiny");
    assert_eq!((tiny.config.d_kv, tiny.card_d_kv), (64, Some(32)));
    assert!(
        tiny.notes[0].contains("cards of tiny say d_kv 32, which would make 14.00 M parameters"),
        "{:?}",
        tiny.notes
    );
    let given = named("t5-efficient-small-kv32");
    assert_eq!((given.config.d_kv, given.card_d_kv, given.notes.len()), (32, None, 0));
    assert_eq!(named("t5-efficient-base").card_d_kv, None);

    let wide = named("t5-efficient-base-ff12000-dm1000");
    assert_eq!((wide.config.d_ff, wide.config.d_model), (12_288, 1024));
    assert_eq!(wide.notes.len(), 2, "{:?}", wide.notes);
    let uneven = named("org/t5-efficient-small-el16-dl2").config;
    assert_eq!((uneven.num_layers, uneven.num_decoder_layers), (16, 2));
    let shallow = named("t5-efficient-large-nh8-nl32").config;
    assert_eq!((shallow.num_layers, shallow.num_decoder_layers, shallow.num_heads), (32, 32, 8));
    assert!(named("umt5-base").notes.is_empty() && named("byt5-base").notes.is_empty());
    let certain = |name: &str| named(name).certain;
    assert!(certain("umt5-base") && certain("t5-efficient-tiny") && certain("t5-efficient-small-ff6000"));
    assert!(certain("umt5-xl") && certain("t5-efficient-small-dm1000") && !certain("t5-efficient-small-ff1000"));
    assert!(!certain("t5-efficient-tiny-ff2000") && !certain("t5-efficient-tiny-sh"));
}

/// Of the config.json of tiny-el12 and xxl-nl4 on the hub, and of the sizes of the other files there (pytorch_model.bin, in MB).
#[test]
fn shapes_say_where_another_one_was_released_under_their_name() {
    for (name, released, megabytes) in [
        ("tiny-el12", "12 + 12 layers, d_ff 1024, 4 heads of 64, 30.26 M", 121.0),
        ("xxl-nl4", "4 + 4 layers, d_ff 65536, 32 heads of 64, 1207.33 M", 4830.0),
        ("tiny-el2", "2 + 12 layers, d_ff 1024, 4 heads of 64, 22.39 M", 89.6),
        ("tiny-el6", "6 + 12 layers, d_ff 1024, 4 heads of 64, 25.54 M", 102.0),
        ("tiny-el8", "8 + 12 layers, d_ff 1024, 4 heads of 64, 27.11 M", 108.5),
        ("tiny-dl2", "12 + 2 layers, d_ff 1024, 4 heads of 64, 19.77 M", 79.1),
        ("tiny-dl6", "12 + 6 layers, d_ff 1024, 4 heads of 64, 23.96 M", 95.9),
        ("tiny-dl8", "12 + 8 layers, d_ff 1024, 4 heads of 64, 26.06 M", 104.0),
        ("tiny-nh8", "4 + 4 layers, d_ff 1024, 8 heads of 32, 15.57 M", 62.3),
        ("tiny-ff2000", "4 + 4 layers, d_ff 1024, 4 heads of 64, 15.57 M", 62.3),
    ] {
        let shape = named(&format!("google/t5-efficient-{name}"));
        let note = shape.notes.last().unwrap();
        assert!(note.contains(&format!("another one: {released} parameters")), "{name}: {note}");
        assert_eq!(shape.card_d_kv, None, "{name}");
        let millions: f64 = released.rsplit(' ').nth(1).unwrap().parse().unwrap();
        assert!((millions * 4.0 - megabytes).abs() < 0.006 * megabytes, "{name}: {released}");
        // The shape itself is the one that the name says.
        assert!((shape.parameters().total() as f64 / 1e6 - millions).abs() > 1.0 || name == "tiny-ff2000", "{name}");
    }
    let others =
        family(true).into_iter().filter(|name| named(name).notes.iter().any(|note| note.contains("another one")));
    assert_eq!(others.count(), 10);
    // Nobody released these.
    assert!(
        named("t5-efficient-tiny-dm1024").card_d_kv.is_none() && named("t5-efficient-tiny-nl8-el8").notes.is_empty()
    );
}

#[test]
fn tied_keys_and_values_are_counted_with_one_matrix() {
    let (tied, apart) = (named("t5-efficient-base-skv"), named("t5-efficient-base"));
    let matrix = 768 * 768;
    assert_eq!(tied.parameters().encoder + 12 * matrix, apart.parameters().encoder);
    assert_eq!(tied.parameters().decoder + 24 * matrix, apart.parameters().decoder);
    let (fewer, all) = (tied.flops(100, 10), apart.flops(100, 10));
    assert_eq!(fewer.encoder + 2 * 12 * 100 * matrix, all.encoder);
    assert_eq!(fewer.cross * 2, all.cross);
    assert_eq!(fewer.decoder + 2 * 12 * 10 * matrix, all.decoder);
    let weights = |shape: &Shape| shape.decoded_token(100, 10).weights;
    assert_eq!(weights(&tied) + 12 * matrix, weights(&apart));
    // What shared heads mean is not known: not counted, and said.
    let shared = named("t5-efficient-base-sh");
    assert_eq!(shared.parameters(), apart.parameters());
    assert_eq!(shared.notes.len(), 1);
    assert_eq!(named("t5-efficient-small-shkv").parameters(), named("t5-efficient-small-skv").parameters());
}

#[test]
fn names_that_are_none_are_refused_with_what_was_expected() {
    for (name, expected) in [
        ("", "t5-efficient-SIZE"),
        ("bert-base", "flan-t5-SIZE"),
        ("t5-huge", "small, base, large, 3b, 11b"),
        ("t5-small-nl4", "small, base"),
        ("umt5-large", "small, base, xl, xxl"),
        ("t5-efficient-", "tiny, mini"),
        ("t5-efficient-tiny-", "suffixes"),
        ("t5-efficient-tiny-nl", "suffixes"),
        ("t5-efficient-tiny-nl+4", "suffixes"),
        ("t5-efficient-tiny-nl4x", "suffixes"),
        ("t5-efficient-tiny-4", "suffixes"),
        ("t5-efficient-tiny-\u{e9}4", "suffixes"),
        ("t5-efficient-tiny-sh4", "suffixes"),
        ("t5-efficient-tiny-nl4-nl4", "nl once"),
        ("t5-efficient-tiny-nl0", "num_layers is 0"),
        ("t5-efficient-tiny-ff99999999", "d_ff"),
        ("t5-efficient-tiny-nl99999999999999999999", "suffixes"),
        ("t5-efficient-xxl-nl1024-nh4096-ff1000000-dm60000-kv60000", "size in bytes"),
    ] {
        let error = refusal(name);
        assert!(error.contains(expected) && error.lines().count() == 1, "{name}: {error}");
    }
    let long = refusal(&format!("t5-efficient-tiny-{}\n", "z".repeat(100_000)));
    assert!(long.len() < 1000 && !long.contains('\n'), "{} bytes", long.len());
    refusal(&format!("t5-efficient-tiny-ff{}", usize::MAX / 1000 * 1000));
}
