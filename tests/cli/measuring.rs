//! `tiny-t5 bench`, `family` and `report`.

use super::*;

#[test]
fn cli_bench_speaks_the_protocol() {
    let folder = data("goldens/v1_0-relu-tied");
    let work = tempfile::NamedTempFile::new().unwrap();
    let path = work.path().display().to_string();
    let write = |new_tokens: usize, beams: usize| {
        let text = format!(
            r#"{{"input_ids": [[5, 8, 1], [7, 1]], "new_tokens": {new_tokens}, "beams": {beams}, "eos_id": 1, "start_id": 0, "suppress_eos": true}}"#
        );
        std::fs::write(work.path(), text).unwrap();
    };
    let bench = ["bench", "--model", &folder, "--workload", &path, "--threads", "1", "--repeats", "3", "--warmup", "1"];
    write(9, 1);
    let line = lines(&[&bench[..], &["--variant", "fp32"]].concat()).remove(0);
    assert_eq!((&line["peer"], &line["variant"]), (&Value::from("tiny-t5"), &Value::from("fp32")));
    assert_eq!(line["total_ms"].as_array().unwrap().len(), 3);
    assert!(line["ids"].as_array().unwrap().iter().all(|ids| ids.as_array().unwrap().len() == 9));
    assert!(line["breakdown_ms"]["layers"].is_number());
    write(5, 3);
    let shot = lines(&[&bench[..5], &["--one-shot"]].concat()).remove(0);
    assert_eq!(shot["ids"][1].as_array().unwrap().len(), 5);
    write(0, 1);
    assert!(lines(&bench)[0]["ids"].is_null());
}

#[test]
fn cli_bench_says_what_the_screen_left_and_null_where_there_is_none() {
    let work = tempfile::NamedTempFile::new().unwrap();
    let path = work.path().display().to_string();
    let screen = |folder: &str, beams: usize, dtype: &str| {
        let text = serde_json::json!({
            "input_ids": [[5, 8, 1], [7, 1]], "new_tokens": 4, "beams": beams, "eos_id": 1, "suppress_eos": true,
        });
        std::fs::write(work.path(), text.to_string()).unwrap();
        let args =
            ["bench", "--model", folder, "--workload", &path, "--repeats", "2", "--warmup", "0", "--dtype", dtype];
        let mut line = lines(&args).remove(0);
        assert!(keys(&line).contains(&"screen"));
        line["screen"].take()
    };
    let many_words = common::many_words();
    let many_words = many_words.write().to_str().unwrap();
    let found = screen(many_words, 1, "f32");
    assert_eq!(found["tokens"], 8, "{found}");
    let decided = found["decided"].as_u64().unwrap();
    assert!((1..=8).contains(&decided), "{found}");
    let survivors = found["survivors_per_token"].as_f64().unwrap();
    assert!((1.0..=512.0).contains(&survivors), "{found}");
    assert!(found["head_ms_per_token"].as_f64().unwrap() > 0.0, "{found}");
    // Three beams of both sources, four steps.
    let found = screen(many_words, 3, "f32");
    assert_eq!((&found["tokens"], &found["decided"]), (&8.into(), &24.into()), "{found}");
    // 8 bits are as narrow as the screen, and a small vocabulary has none.
    assert_eq!(screen(many_words, 1, "int8"), Value::Null);
    assert_eq!(screen(&data("goldens/v1_0-relu-tied"), 1, "f32"), Value::Null);
}

#[test]
fn cli_bench_gives_transformers_ids_with_the_end_token_suppressed() {
    let cases = &cases("v1_0-relu-tied")[..4];
    let rows: Vec<&Value> = cases.iter().map(|case| &case["input_ids"]).collect();
    let expected: Vec<&[Value]> = cases.iter().map(|case| &case["greedy_24_no_eos"].as_array().unwrap()[1..]).collect();
    let work = tempfile::NamedTempFile::new().unwrap();
    let text = serde_json::json!({
        "input_ids": rows, "new_tokens": 24, "beams": 1, "eos_id": 1, "start_id": 0, "suppress_eos": true,
    });
    std::fs::write(work.path(), text.to_string()).unwrap();
    let path = work.path().display().to_string();
    let line =
        json_of(with_golden("v1_0-relu-tied", &["bench", "--workload", &path, "--repeats", "2", "--warmup", "0"]));
    assert_eq!(line["ids"], serde_json::json!(expected));
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    let first = |key: &str| line[key][0].as_f64().unwrap();
    assert!(0.0 < first("encode_ms") && first("encode_ms") < first("total_ms"));
    assert!(line["load_ms"].as_f64().unwrap() > 0.0);
    assert!(cfg!(not(target_os = "linux")) || line["peak_rss_kb"].as_u64().unwrap() > 1000);

    for (text, parts) in [
        (r#"{"input_ids": []}"#, ["--workload", "new_tokens"]),
        (r#"{"input_ids": [], "new_tokens": 1}"#, ["--workload", "input_ids"]),
        (r#"{"input_ids": [[500]], "new_tokens": 1}"#, ["source", "500"]),
    ] {
        std::fs::write(work.path(), text).unwrap();
        fails(&["bench", "--workload", &path], 1, &parts);
    }
}

#[test]
fn cli_family_tells_shapes_without_weights() {
    let family = |args: &[&str]| json_of(tiny_t5(&[&["family"], args].concat()));
    let two = family(&["t5-efficient-tiny-nl32", "google/t5-large", "--source", "512", "--target", "128"]);
    let [tiny, large] = &two.as_array().unwrap()[..] else { panic!("{two}") };
    assert_eq!(tiny["name"], "t5-efficient-tiny-nl32");
    assert_eq!(
        (&tiny["parameters"]["total"], &large["parameters"]["total"]),
        (&66_986_752.into(), &737_668_096.into())
    );
    assert_eq!(
        (&tiny["shape"]["num_layers"], &tiny["card_d_kv"], &large["card_d_kv"]),
        (&32.into(), &32.into(), &Value::Null)
    );
    assert_eq!(tiny["bytes"]["16bit"], 2 * 66_986_752u64);
    assert_eq!((&large["flops"]["source"], &large["flops"]["target"]), (&512.into(), &128.into()));
    let (flops, bytes) = (&large["decoded_token"]["flops"], &large["decoded_token"]["bytes"]["int8"]);
    let intensity = flops.as_f64().unwrap() / bytes.as_f64().unwrap();
    assert_eq!(large["decoded_token"]["intensity"]["int8"], intensity);
    let (sizes, all) = (family(&[]), family(&["--all"]));
    assert!(sizes.as_array().unwrap().len() > 20 && all.as_array().unwrap().len() > 150);
}

#[test]
fn cli_family_prints_a_table_that_is_at_most_100_columns_wide() {
    for args in [
        &["family"][..],
        &["family", "--all"],
        &["family", "--source", "1048576", "--target", "1048576"],
        &["family", "--explain"],
    ] {
        let text = answer(args);
        assert!(text.lines().count() > 25, "{text}");
        text.lines().for_each(|line| assert!(line.chars().count() <= 100, "{args:?}: {line}"));
    }
    let table = answer(&["family"]);
    let tiny = table.lines().find(|line| line.starts_with("t5-efficient-tiny ")).unwrap();
    assert!(tiny.contains(" 64/32 ") && tiny.contains(" 15,570,688 "), "{tiny}");
    let one = answer(&["family", "t5-efficient-tiny"]);
    assert!(
        one.contains("\nparameters       15,570,688\n") && one.contains("\nnote             published cards of tiny"),
        "{one}"
    );
    assert!(answer(&["family", "--explain"]).contains("counted causally"));
    let explained = answer(&["family", "t5-efficient-tiny", "--explain"]);
    assert!(explained.starts_with(&one) && explained.ends_with(&answer(&["family", "--explain"])), "{explained}");
    // Known for certain, and not.
    assert!(table.contains("\numt5-base ") && answer(&["family", "--all"]).contains("\nt5-efficient-tiny-ff2000?"));
}

#[test]
fn cli_family_refuses_names_that_are_none() {
    let (code, error) = failure(tiny_t5(&["family", "t5-small", "t5-enormous"]));
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("t5-enormous") && error.contains("small, base, large, 3b, 11b"), "{error}");
    assert_eq!(failure(tiny_t5(&["family", "--all", "t5-small"])).0, 2);
    assert_eq!(failure(tiny_t5(&["family", "--source", "-1"])).0, 2);
}

/// A shape whose measurement takes a moment.
const QUICK: &str = "t5-efficient-tiny-nl1-dm64-ff64-nh1";

#[test]
fn cli_report_measures_a_shape_beside_the_machines_limits() {
    let args =
        ["report", QUICK, "--budget", "1s", "--threads", "1,1", "--batch", "1,3,1", "--source", "8", "--target", "4"];
    let report = json_of(tiny_t5(&args));
    assert_eq!(
        (&report["source"], &report["target"], &report["skipped"]),
        (&8.into(), &4.into(), &Value::Array(vec![]))
    );
    assert!(report["machine"]["processor"].is_string() && report["machine"]["load_average"].is_array());
    let [row] = &report["shapes"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&row["name"], &row["dtype"], &row["threads"]), (&QUICK.into(), &"f32".into(), &1.into()));
    assert_eq!(row["parameters"]["total"], json_of(tiny_t5(&["family", QUICK]))[0]["parameters"]["total"]);
    for key in ["encode_ms", "first_token_ms", "token_ms", "total_ms"] {
        let at = |part: &str| row[key][part].as_f64().unwrap();
        assert!(0.0 < at("low") && at("low") <= at("median") && at("median") <= at("high"), "{key}: {row}");
        assert!(row[key]["runs"].as_u64().unwrap() >= 2, "{key}: {row}");
    }
    let sizes: Vec<_> = row["batches"].as_array().unwrap().iter().map(|batch| batch["size"].clone()).collect();
    assert_eq!(sizes, [1, 3]);
    // The head reads an int8 screen of 32128 x 64, the block 4 bytes a weight.
    let limits = &row["roofline"];
    let bytes = limits["step_bytes"].as_u64().unwrap();
    assert!((32_128 * 64..32_128 * 64 * 2).contains(&bytes), "{limits}");
    for key in ["fma_peak", "read_bandwidth", "encode_share", "token_share"] {
        assert!(limits[key].as_f64().unwrap() > 0.0, "{key}: {limits}");
    }
    assert!(row["encode_ms"]["median"].as_f64() < row["total_ms"]["median"].as_f64(), "{row}");

    let csv = answer(&[&args[..], &["--csv"]].concat());
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((lines.len(), lines[0].len(), lines[1][0]), (2, lines[1].len(), QUICK));
    let table = answer(&args);
    assert!(table.lines().any(|line| line.starts_with(QUICK) && line.contains(" 2.1M ")), "{table}");
}

/// A step that reads its bytes in less than a microsecond has a bandwidth all the same.
#[test]
fn cli_report_measures_checkpoints_of_a_few_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 7, "d_model": 16, "d_kv": 4, "d_ff": 16,
        "num_layers": 1, "num_heads": 1, "relative_attention_num_buckets": 4, "feed_forward_proj": "relu",
        "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let (norm, square) = (vec![16], vec![16, 16]);
    let mut tensors = vec![("shared".to_owned(), vec![7, 16])];
    for (stack, layers) in [("encoder", &["Self", ""][..]), ("decoder", &["Self", "EncDec", ""])] {
        tensors.push((format!("{stack}.final_layer_norm"), norm.clone()));
        for (i, layer) in layers.iter().enumerate() {
            let at = format!("{stack}.block.0.layer.{i}");
            tensors.push((format!("{at}.layer_norm"), norm.clone()));
            if layer.is_empty() {
                tensors.extend(["wi", "wo"].map(|part| (format!("{at}.DenseReluDense.{part}"), square.clone())));
                continue;
            }
            tensors.extend(["q", "k", "v"].map(|part| (format!("{at}.{layer}Attention.{part}"), vec![4, 16])));
            tensors.push((format!("{at}.{layer}Attention.o"), vec![16, 4]));
        }
        tensors.push((format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"), vec![4, 1]));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let tensor = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(format!("{name}.weight"), tensor);
    }
    let header = Value::Object(header).to_string();
    let numbers = vec![0; end];
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &numbers].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let model = folder.path().display().to_string();
    let args = ["report", "--model", &model, "--budget", "1s", "--threads", "1", "--batch", "1", "--source", "4"];
    let report = json_of(tiny_t5(&[&args[..], &["--target", "2"]].concat()));
    let limits = &report["shapes"][0]["roofline"];
    assert!(
        limits["read_bandwidth"].as_f64().unwrap() > 0.0 && limits["token_limit_ms"].as_f64().unwrap() > 0.0,
        "{limits}"
    );
}

#[test]
fn cli_report_writes_one_page_that_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let out = page.display().to_string();
    answer(&[
        "report",
        QUICK,
        "t5-efficient-tiny-nl2-dm64-ff64-nh1",
        "--budget",
        "2s",
        "--source",
        "8",
        "--target",
        "4",
        "--out",
        &out,
    ]);
    let html = std::fs::read_to_string(&page).unwrap();
    for outside in ["src=", "@import", "url(", "<link rel=\"stylesheet", "fetch("] {
        assert!(!html.contains(outside), "{outside}");
    }
    // The name of SVG's elements is no address that anything is loaded from.
    let without = html.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!without.contains("http:") && !without.contains("https:"));
    for figure in ["legend", "flops", "time", "roofline", "breakdown"] {
        let at = html.find(&format!("<figure id=\"{figure}\">")).unwrap();
        let end = at + html[at..].find("</figure>").unwrap();
        assert_eq!(html[at..end].matches("<svg ").count(), 2, "{figure}: wide and narrow");
    }
    assert_eq!(html.matches("<tr><td>tiny-nl").count(), 2, "a row a shape");
    assert!(html.contains(env!("CARGO_PKG_VERSION")) && !html.contains("NaN"));
    fails(&["report", QUICK, "--budget", "1s", "--out", "no/such/folder/report.html"], 1, &["--out no/such/folder"]);
}

/// Who measures ends with who asked, who may have been killed.
#[cfg(target_os = "linux")]
#[test]
fn cli_report_leaves_no_process_behind() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"));
    command.args(["report", QUICK, "--threads", "1", "--budget", "60s"]).stdout(std::process::Stdio::null());
    /// Killed, whatever becomes of the test.
    struct Killed(std::process::Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let report = Killed(command.spawn().unwrap());
    let id = report.0.id();
    // The parent stands third behind a process's name in parentheses.
    let parent = |process: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let child = || {
        let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        let mut processes = processes.map(|name| name.to_string_lossy().into_owned());
        processes.find(|process| parent(process) == Some(id))
    };
    let until = |done: &dyn Fn() -> bool| {
        for _ in 0..4000 {
            if done() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        false
    };
    assert!(until(&|| child().is_some()));
    let child = child().unwrap();
    drop(report);
    // A process that ended and that nobody waited for has no command line.
    let runs = || std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty());
    assert!(until(&|| !runs()), "process {child}");
}

#[test]
fn cli_report_leaves_out_what_has_no_room() {
    let args = ["report", QUICK, "t5-11b", "t5-efficient-tiny-skv", "--budget", "1s"];
    let report = json_of(tiny_t5(&args));
    let why = |i: usize| report["skipped"][i]["why"].as_str().unwrap().to_owned();
    assert!(why(0).contains("--memory-limit is 4000 MB"), "{report}");
    assert!(why(1).contains("cannot be loaded"), "{report}");
    fails(&["report", QUICK, "--memory-limit", "1MB"], 1, &["nothing was measured", QUICK, "--memory-limit is 1 MB"]);
    fails(&["report", "t5-enormous"], 1, &["t5-enormous"]);
    fails(&["report", "--batch", "99999999999"], 2, &["--batch", "1 to 1024"]);
    // Nothing is left where a page would have been.
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("new.html").display().to_string();
    fails(&["report", "--model", "no/such/folder", "--out", &page], 1, &["no/such/folder"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    fails(&["report", "--model", "no/such/folder", "--budget", "1s"], 1, &["no/such/folder"]);
    // What can be measured is, and what cannot is an error all the same; a page there is stays whole until there is another.
    std::fs::write(&page, "old").unwrap();
    let args = [
        "report",
        QUICK,
        "--model",
        "no/such/folder",
        "--threads",
        "1",
        "--target",
        "2",
        "--budget",
        "20s",
        "--csv",
        "--out",
        &page,
    ];
    let (code, out, errors) = run(tiny_t5(&args));
    assert_eq!((code, out.lines().count()), (1, 2), "{errors}");
    assert!(errors.contains("error: no/such/folder"), "{errors}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("tiny-nl1"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // int8 has another peak than f32, which is not measured.
    let row = &json_of(tiny_t5(&["report", QUICK, "--dtype", "int8", "--threads", "1", "--budget", "1s"]))["shapes"][0];
    assert!(row["roofline"]["encode_share"].is_null() && row["batches"][0]["share"].is_null(), "{row}");
    for (option, value) in
        [("--budget", "5h"), ("--memory-limit", "much"), ("--batch", "0"), ("--dtype", "f8"), ("--source", "0")]
    {
        fails(&["report", QUICK, option, value], 2, &[option, value]);
    }
}

#[test]
fn cli_family_fit_lists_what_fits_and_keeps_its_calibration() {
    let cache = tempfile::tempdir().unwrap();
    let fit = |terms: &str, args: &[&str]| {
        let mut command = tiny_t5(&[&["family", "--fit", terms], args].concat());
        command.env("XDG_CACHE_HOME", cache.path());
        json_of(command)
    };
    let terms = "parameters<20M,threads=1,source=32,target=8";
    let found = fit(terms, &[]);
    let totals: Vec<u64> =
        found["shapes"].as_array().unwrap().iter().map(|shape| shape["parameters"].as_u64().unwrap()).collect();
    assert!(
        totals.len() > 5 && totals.iter().all(|n| *n < 20_000_000) && totals.is_sorted_by(|a, b| a >= b),
        "{totals:?}"
    );
    assert_eq!(found["calibration"]["bandwidth"].as_array().unwrap().len(), 10);
    assert_eq!((&found["source"], &found["target"]), (&32.into(), &8.into()));
    let file = cache.path().join("tiny-t5/calibration-1-f32.json");
    assert!(file.is_file());
    assert_eq!(fit(terms, &[]), found, "from the kept calibration, the same again");
    // One of another version is made again.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"version\":\"0\""))
        .unwrap();
    assert_eq!(fit(terms, &[])["calibration"]["version"], env!("CARGO_PKG_VERSION"));
    // Of two limits both hold, and deeper stacks take longer.
    let two = fit("parameters<20M,latency<1000s,threads=1", &["t5-efficient-tiny-nl8", "t5-efficient-tiny"]);
    assert_eq!(two["shapes"].as_array().unwrap().len(), 1, "{two}");
    let (code, error) = failure(tiny_t5(&["family", "--fit", "depth<5"]));
    assert!(code == 2 && error.contains("depth<5"), "{error}");
}
