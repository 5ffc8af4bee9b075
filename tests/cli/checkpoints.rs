//! Commands on a checkpoint besides `generate`: `score`, `encode`, `classify`, `infill`, `info`, and how one is found.

use super::*;

#[test]
fn cli_score_gives_loss_and_logprobs() {
    let line = &lines(&["score", "--json", "--target", "ˈeɪ", "a"])[0];
    let logprobs: Vec<f32> = serde_json::from_value(line["token_logprobs"].clone()).unwrap();
    let loss: f32 = serde_json::from_value(line["loss"].clone()).unwrap();
    assert!((loss + logprobs.iter().sum::<f32>() / logprobs.len() as f32).abs() < 1e-6);
    let ids = &lines(&["score", "--json", "--target-ids", "51,29,61,1", "--input-ids", "25,1"])[0];
    assert_eq!(ids["token_logprobs"].as_array().unwrap().len(), 4);
}

#[test]
fn cli_encode_gives_hidden_states_or_a_vector() {
    let hidden = &lines(&["encode", "--json", "hello"])[0]["hidden"];
    assert_eq!((hidden.as_array().unwrap().len(), hidden[0].as_array().unwrap().len()), (6, 192));
    let vector = &lines(&["encode", "--json", "--pool", "mean", "--normalize", "hello"])[0]["embedding"];
    let vector: Vec<f64> = serde_json::from_value(vector.clone()).unwrap();
    assert!((vector.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-5);
}

#[test]
fn cli_classify_gives_logits_and_labels() {
    let of = |name: &str| lines(&["classify", "--json", "--model", &data(name), "--input-ids", "5,8,1"]).remove(0);
    assert!(of("goldens/sequence-classification")["label"].as_str().unwrap().starts_with("LABEL_"));
    assert_eq!(of("goldens/token-classification")["labels"].as_array().unwrap().len(), 3);
    assert_eq!(of("goldens/question-answering")["start_logits"].as_array().unwrap().len(), 3);
}

#[test]
fn cli_info_json_says_isa_and_parameters() {
    let info = &lines(&["info", "--json"])[0];
    assert_eq!(info["parameters"]["total"], 3_856_512);
    assert!(["amx", "avx512", "avxvnni", "avx2", "portable"].contains(&info["isa"].as_str().unwrap()));
    let mut forced = tiny_t5(&["info", "--json"]);
    let output = forced.env("TINY_T5_ISA", "portable").output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["isa"], "portable");
}

#[test]
fn cli_model_looks_into_the_hubs_cache() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("models--somebody--tiny");
    let snapshot = repo.join("snapshots/0123abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "0123abc").unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(format!("{}/{file}", data("goldens/v1_0-relu-tied")), snapshot.join(file)).unwrap();
    }
    let mut command = tiny_t5(&["--model", "somebody/tiny", "--input-ids", "5,1"]);
    assert!(command.env("HF_HUB_CACHE", cache.path()).output().unwrap().status.success());
    let mut command = tiny_t5(&["--model", "somebody/else", "--input-ids", "5,1"]);
    command.env("HF_HUB_CACHE", cache.path());
    let (code, error) = failure(command);
    let cache = cache.path().display().to_string();
    assert!(code == 1 && error.contains("somebody/else") && error.contains(&cache), "{error}");
}

#[test]
fn cli_model_bad_checkpoints_are_one_line() {
    let fails = |folder: tempfile::TempDir, parts: &[&str]| {
        let begun = std::time::Instant::now();
        let path = folder.path().display().to_string();
        let (code, out, err) = run(tiny_t5(&["--model", &path, "--input-ids", "5,1"]));
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 1), "{err}");
        assert!(err.starts_with("error: ") && parts.iter().all(|part| err.contains(part)), "{err} lacks {parts:?}");
        assert!(begun.elapsed().as_secs() < 5);
    };
    let half = |bytes: Vec<u8>| bytes[..bytes.len() / 2].to_vec();
    let relu = "v1_0-relu-tied";
    fails(changed(relu, "model.safetensors", half), &["model.safetensors"]);
    fails(changed(relu, "model.safetensors", |_| vec![0xff; 16]), &["model.safetensors"]);
    fails(changed(relu, "model.safetensors", |_| Vec::new()), &["model.safetensors"]);
    fails(changed("pytorch-bin", "pytorch_model.bin", half), &["pytorch_model.bin"]);
    fails(changed(relu, "config.json", half), &["config.json"]);
    let with = |key: &'static str, value: Value| {
        move |bytes: Vec<u8>| {
            let mut config: Value = serde_json::from_slice(&bytes).unwrap();
            config[key] = value;
            config.to_string().into_bytes()
        }
    };
    for (key, value) in [
        ("d_model", Value::from(4_000_000_000_u64)),
        ("num_layers", Value::from(-1)),
        ("num_heads", Value::from("four")),
        ("vocab_size", Value::from(1e300)),
    ] {
        fails(changed(relu, "config.json", with(key, value)), &["config.json", key]);
    }
    let narrow = changed(relu, "config.json", with("d_ff", Value::from(64)));
    fails(narrow, &["model.safetensors", "DenseReluDense", "128", "64"]);
    let shallow = changed(relu, "config.json", with("num_layers", Value::from(1)));
    fails(shallow, &["encoder.block.1", "num_layers"]);
    let options = |_| br#"{"num_beams": "many"}"#.to_vec();
    fails(changed(relu, "generation_config.json", options), &["generation_config.json", "num_beams", "many"]);
}

#[test]
fn cli_score_floats_parse_back_to_the_same_f32() {
    let t5 = tiny_t5::T5::open(data("goldens/v1_0-relu-tied")).unwrap();
    for case in &cases("v1_0-relu-tied")[..4] {
        let [source, target] = ["input_ids", "labels"].map(|key| ids_arg(&case[key]));
        let args = ["score", "--input-ids", &source, "--target-ids", &target];
        let line = json_of(with_golden("v1_0-relu-tied", &args));
        assert_eq!(keys(&line), ["loss", "token_logprobs"]);
        let ids = |key: &str| serde_json::from_value::<Vec<u32>>(case[key].clone()).unwrap();
        let score = t5.score(&ids("input_ids"), &ids("labels")).unwrap();
        assert_eq!(floats(&line["loss"])[0].to_bits(), score.loss.to_bits());
        assert_eq!(floats(&line["token_logprobs"]), score.token_logprobs);
        assert_eq!(run(with_golden("v1_0-relu-tied", &args)).1, format!("{}\n", score.loss));
    }
}

#[test]
fn cli_score_takes_one_target_or_one_for_each_source() {
    let one = |source: &str, target: &str| answer(&["score", source, "--target", target]);
    assert_eq!(answer(&["score", "a", "b", "--target", "ə"]), one("a", "ə") + &one("b", "ə"));
    assert_eq!(answer(&["score", "a", "b", "--target", "ə", "--target", "ɪ"]), one("a", "ə") + &one("b", "ɪ"));
    fails(&["score", "a", "--target", "b", "--target", "c"], 2, &["2 targets", "1 source"]);
    fails(&["score", "a"], 2, &["--target"]);
    fails(&["score", "a", "--target-ids", ""], 1, &["target", "empty"]);
}

#[test]
fn cli_encode_prints_the_librarys_bits() {
    let t5 = tiny_t5::T5::open(data("goldens/encoder-only")).unwrap();
    let encoding = t5.encode(&[5u32, 6, 1]).unwrap();
    let of = |pool: &str| json_of(with_golden("encoder-only", &["encode", "--input-ids", "5,6,1", "--pool", pool]));
    let (hidden, mean) = (of("none"), of("mean"));
    assert_eq!((keys(&hidden), keys(&mean)), (vec!["hidden"], vec!["embedding"]));
    assert_eq!(hidden["hidden"].as_array().unwrap().len(), 3, "a row a position");
    assert_eq!(floats(&hidden["hidden"]), encoding.hidden);
    assert_eq!(floats(&mean["embedding"]), encoding.mean());
    // A folder without modules.json: the mean.
    assert_eq!(floats(&of("sentence")["embedding"]), t5.embed(&[5u32, 6, 1]).unwrap());
}

#[test]
fn cli_classify_gives_the_references_logits() {
    for (golden, logits, expected) in [
        ("sequence-classification", "logits", ["label", "logits"]),
        ("token-classification", "logits", ["labels", "logits"]),
        ("question-answering", "start_logits", ["end_logits", "start_logits"]),
    ] {
        let case = &cases(golden)[1];
        let line = json_of(with_golden(golden, &["classify", "--input-ids", &ids_arg(&case["input_ids"])]));
        assert_eq!(keys(&line), expected);
        let (found, reference) = (floats(&line[logits]), floats(&case[logits]));
        assert_eq!(found.len(), reference.len());
        assert!(found.iter().zip(&reference).all(|(x, y)| (x - y).abs() < 1e-3), "{golden}");
    }
    fails(&["classify", "a"], 1, &["classify", "ConditionalGeneration"]);
}

#[test]
fn cli_infill_puts_spans_in_place_of_sentinels() {
    // Bytes, with sentinels behind them; the weights are random, so the spans are what the library finds.
    let text = "a <extra_id_0> walks in <extra_id_1> park";
    let line = json_of(with_golden("byt5-shape", &["infill", "--max-new-tokens", "12", text]));
    let options = tiny_t5::Generate { max_new_tokens: Some(12), ..tiny_t5::Generate::default() };
    let filled = tiny_t5::T5::open(data("goldens/byt5-shape")).unwrap().infill(text, &options).unwrap();
    assert_eq!(
        line,
        serde_json::json!({"text": filled.text, "spans": filled.spans, "ids": filled.ids, "finish": "length"})
    );
    assert_eq!(line["spans"].as_array().unwrap().len(), 2);
    let bytes = data("goldens/byt5-shape");
    fails(&["infill", "--model", &bytes, "nothing"], 1, &["source", "no gap"]);
    fails(&["infill", "--model", &bytes, "--input-ids", "5,1"], 2, &["--input-ids"]);
}

/// Numbers in the tensors of a safetensors file.
fn numbers(path: &std::path::Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let size = |shape: &Value| shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>();
    tensors.map(|(_, tensor)| size(&tensor["shape"])).sum()
}

#[test]
fn cli_info_parameters_equal_the_tensors() {
    let mut counted = 0;
    for entry in std::fs::read_dir(data("goldens")).unwrap() {
        let folder = entry.unwrap().path();
        let file = folder.join("model.safetensors");
        if !file.exists() {
            continue;
        }
        let info = json_of(tiny_t5(&["info", "--model", &folder.display().to_string()]));
        let p = &info["parameters"];
        assert_eq!(p["total"], numbers(&file), "{}", folder.display());
        let part = |part: &str| p[part].as_u64().unwrap();
        assert_eq!(part("total"), part("embedding") + part("encoder") + part("decoder") + part("head"));
        assert_eq!(info["bytes"]["f32"], part("total") * 4);
        assert_eq!(info["bytes"]["on_disk"], file.metadata().unwrap().len());
        counted += 1;
    }
    assert!(counted > 15, "{counted}");
}

#[test]
fn cli_info_tells_variant_tokenizer_and_what_was_ignored() {
    let info = |golden: &str| json_of(with_golden(golden, &["info"]));
    for (golden, variant, gated, activation) in [
        ("v1_0-relu-tied", "t5", false, "relu"),
        ("v1_1-gated-gelu-untied", "t5", true, "gelu_new"),
        ("gated-silu", "t5", true, "silu"),
        ("mt5", "mt5", true, "gelu_new"),
        ("umt5-bias-in-every-layer", "umt5", true, "gelu_new"),
        ("byt5-shape", "byt5", true, "gelu_new"),
    ] {
        let info = info(golden);
        let found = (&info["variant"], &info["gated"], &info["activation"]);
        assert_eq!(found, (&variant.into(), &gated.into(), &activation.into()), "{golden}");
        let tokenizer = if variant == "byt5" { "bytes".into() } else { Value::Null };
        assert_eq!(info["tokenizer"], tokenizer, "{golden}");
    }
    let spurious = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
    assert_eq!(info("hub-like-bin")["tensors_ignored"], serde_json::json!([spurious]));
    assert_eq!(info("encoder-only")["parameters"]["decoder"], 0);
    let table = answer(&["info"]);
    assert!(table.contains("\nparameters       3,856,512\n"), "{table}");
}

#[test]
fn cli_info_counts_flops_for_the_lengths_given() {
    let flops = |source, target| json_of(tiny_t5(&["info", "--source", source, "--target", target]))["flops"].clone();
    // 6 layers, d_model 192, 192 wide attention, d_ff 768: 2 FLOPs a weight, and one pair of positions.
    assert_eq!(flops("1", "1")["encoder"], 2 * 6 * (4 * 192 * 192 + 2 * 192 * 768 + 2 * 192));
    let more = flops("100", "50");
    assert_eq!(more["head"], 50 * 2 * 96 * 192);
    assert_eq!((&more["source"], &more["target"]), (&100.into(), &50.into()));
}

#[test]
fn cli_info_names_every_instruction_set_of_this_machine() {
    let (available, missing) = (tiny_t5::T5::available_isas(), tiny_t5::T5::missing_isas());
    for isa in &available {
        let mut command = tiny_t5(&["info"]);
        command.env("TINY_T5_ISA", isa);
        let info = json_of(command);
        assert_eq!(info["isa"], *isa);
        assert_eq!(
            (&info["isas"], &info["isas_missing"]),
            (&serde_json::json!(available), &serde_json::json!(missing))
        );
        let known = tiny_t5::T5::known_isas();
        let better: Vec<_> = known.into_iter().take_while(|name| name != isa).collect();
        assert_eq!(info["why_not_better"].is_null(), better.is_empty(), "{isa}: {info}");
        for name in &missing {
            let told = info["why_not_better"].as_str().is_some_and(|why| why.contains(&format!("lacks {name}")));
            assert_eq!(told, better.contains(name), "{isa}, {name}: {info}");
        }
        let mut command = tiny_t5(&["photosynthesis"]);
        command.env("TINY_T5_ISA", isa);
        assert_eq!(run(command).1, "ˌfoʊtoʊˈsɪnθəsəs\n", "{isa}");
    }
    for isa in &missing {
        let mut command = tiny_t5(&["info"]);
        command.env("TINY_T5_ISA", isa);
        let (code, error) = failure(command);
        assert!(code == 1 && error.contains(isa) && error.contains("portable"), "{error}");
        println!("not run, this processor lacks it: {isa}");
    }
}
