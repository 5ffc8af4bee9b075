//! `tiny-t5 generate`: options, lines and pipes, streams, what is noted.

use super::*;

#[test]
fn cli_generate_json_has_the_promised_keys_in_order() {
    let v4 = data("goldens/v1_0-relu-tied");
    let all =
        lines(&["--model", &v4, "--json", "--input-ids", "5,8,1", "--input-ids", "7,9,3,4,1", "--max-new-tokens", "6"]);
    assert_eq!(all.len(), 2);
    assert_eq!(all[0]["input_ids"], serde_json::json!([5, 8, 1]));
    assert_eq!(all[1]["input_ids"], serde_json::json!([7, 9, 3, 4, 1]));
    for line in &all {
        let sequence = &line["sequences"][0];
        assert!(sequence["text"].is_null(), "no tokenizer, no text");
        assert!(sequence.get("score").is_none(), "greedy has no score");
        assert!(["eos", "length"].contains(&sequence["finish"].as_str().unwrap()));
        for key in ["load_ms", "encode_ms", "decode_ms"] {
            assert!(line["timings"][key].is_number());
        }
        assert_eq!(line["timings"]["new_tokens"], sequence["ids"].as_array().unwrap().len());
        let ids = &line["input_ids"].to_string().replace(['[', ']'], "");
        let alone = lines(&["--model", &v4, "--json", "--input-ids", ids, "--max-new-tokens", "6"]);
        assert_eq!(alone[0]["sequences"], line["sequences"], "a batch is the same as each alone");
    }
}

#[test]
fn cli_generate_beams_have_scores_that_parse_back() {
    let all = lines(&["--json", "--num-beams", "4", "--num-return-sequences", "4", "haymarket"]);
    let sequences = all[0]["sequences"].as_array().unwrap();
    assert_eq!(sequences.len(), 4);
    let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default()).unwrap();
    let options =
        tiny_t5::Generate { num_beams: Some(4), num_return_sequences: Some(4), ..tiny_t5::Generate::default() };
    let generated = t5.generate("haymarket", &options).unwrap();
    for (json, sequence) in sequences.iter().zip(&generated.sequences) {
        let score: f32 = json["score"].to_string().parse().unwrap();
        assert_eq!(score.to_bits(), sequence.score.unwrap().to_bits());
        assert_eq!(json["text"], *sequence.text.as_ref().unwrap());
    }
}

#[test]
fn cli_generate_options_have_transformers_names() {
    let golden = data("goldens-options");
    let file: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{golden}/options.json")).unwrap()).unwrap();
    for set in file["options"].as_array().unwrap().iter().step_by(4) {
        let mut args = vec!["--model".to_owned(), golden.clone(), "--json".into()];
        for (key, value) in set["generation_config"].as_object().unwrap() {
            args.extend([format!("--{}", key.replace('_', "-")), value.to_string()]);
        }
        let case = &set["cases"][1];
        args.extend(["--input-ids".into(), case["input_ids"].to_string().replace(['[', ']'], "")]);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let got = &lines(&args)[0]["sequences"];
        for (got, expected) in got.as_array().unwrap().iter().zip(case["sequences"].as_array().unwrap()) {
            let (got, expected) = (got["ids"].as_array().unwrap(), expected["ids"].as_array().unwrap());
            assert_eq!(got[..], expected[1..=got.len()], "{args:?}");
        }
    }
}

#[test]
fn cli_generate_reads_lines_in_order() {
    let words = "photosynthesis\nhello world\n\na\n";
    let one_by_one: String = ["photosynthesis", "hello world", "", "a"].iter().map(|w| answer(&["--", w])).collect();
    let output = tiny_t5(&["generate"]).write_stdin(words).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), one_by_one);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), words.replace('\n', "\r\n")).unwrap();
    assert_eq!(answer(&["--file", &file.path().display().to_string()]), one_by_one);
    // As some editors on Windows leave it.
    std::fs::write(file.path(), format!("\u{feff}{}\r", words.replace('\n', "\r\n").trim_end())).unwrap();
    assert_eq!(answer(&["--file", &file.path().display().to_string()]), one_by_one);
}

#[test]
fn cli_generate_many_lines_keep_their_order() {
    let words: Vec<String> = (0..600).map(|i| format!("word {}", "x".repeat(i % 7 + 1))).collect();
    let output = tiny_t5(&["--max-new-tokens", "4"]).write_stdin(words.join("\n")).output().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 600);
    assert!((7..600).all(|i| answers[i] == answers[i - 7]));
}

#[test]
fn cli_generate_stream_prints_the_same_text() {
    assert_eq!(answer(&["--stream", "photosynthesis"]), answer(&["photosynthesis"]));
    assert_eq!(
        answer(&["--stream", "--num-beams", "3", "hello", "world"]),
        answer(&["--num-beams", "3", "hello", "world"])
    );
}

#[test]
fn cli_generate_samples_by_seed() {
    let sampled =
        |seed: &str| answer(&["--do-sample", "--temperature", "1.8", "--seed", seed, "My phone number is 42."]);
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));
}

/// Lines are numbered through, however many of them come at a time, and whether their answers are streamed.
#[test]
fn cli_generate_samples_do_not_depend_on_how_lines_come() {
    use std::io::{BufRead, BufReader, Write};
    const ARGS: [&str; 4] = ["--do-sample", "--temperature=2.0", "--seed=9", "--threads=1"];
    let words: Vec<&str> = ["a b c", "hello", "rhythm"].into_iter().cycle().take(300).collect();
    let all = tiny_t5(&ARGS).write_stdin(words.join("\n")).output().unwrap();
    let all = String::from_utf8(all.stdout).unwrap();
    let all: Vec<&str> = all.lines().collect();
    assert_eq!(all.len(), 300);
    assert!((3..300).any(|i| all[i] != all[i - 3]), "the same text has another sample elsewhere");
    let few = &words[..5];
    assert_eq!(answer(&[&ARGS[..], few].concat()).lines().collect::<Vec<_>>(), all[..5], "as arguments");
    assert_eq!(answer(&[&ARGS[..], &["--stream"], few].concat()).lines().collect::<Vec<_>>(), all[..5], "streamed");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .args(ARGS)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for (word, expected) in few.iter().zip(&all) {
        writeln!(stdin, "{word}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), *expected, "one by one");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn cli_notes_say_what_cut_the_text_and_what_was_unknown() {
    let folder = data("goldens/v1_0-relu-tied");
    let output = tiny_t5(&["--model", &folder, "--input-ids", "58,1"]).output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(notes.contains("--max-new-tokens"), "{notes}");
    let output = tiny_t5(&["☃"]).output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("unknown"));
}

#[test]
fn cli_generate_gives_the_reference_texts_of_the_embedded_model() {
    let file = read_json(&data("g2p-ipa/cases.json"));
    let cases = file["cases"].as_array().unwrap();
    let texts: String = cases.iter().map(|case| case["text"].as_str().unwrap().to_owned() + "\n").collect();
    let output = tiny_t5(&["--file", "-", "--json"]).write_stdin(texts).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), cases.len());
    for (line, case) in text.lines().zip(cases) {
        let answer: Value = serde_json::from_str(line).unwrap();
        assert_eq!(answer["input_ids"], case["input_ids"]);
        assert_eq!(answer["sequences"][0]["ids"], case["greedy"]["ids"]);
        assert_eq!(answer["sequences"][0]["text"], case["greedy"]["text"]);
        assert_eq!(answer["sequences"][0]["finish"], "eos");
    }
}

#[test]
fn cli_generate_has_every_option_of_the_library_with_its_words() {
    // Lines are broken where the terminal ends.
    let help = answer(&["generate", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!help.contains("<VALUE>"), "an option of a type that has no name on the command line");
    for (name, _, doc) in tiny_t5::Generate::OPTIONS {
        let long = format!("--{}", name.replace('_', "-"));
        assert!(help.contains(&format!("{long} <")) || help.contains(&format!("{long}[=<BOOL>]")), "{name}");
        // Other options have their names of the command line.
        let word = |word: &str| match word.contains('_') {
            true => format!("--{}", word.replace('_', "-")),
            false => word.to_owned(),
        };
        let doc = doc.trim().trim_end_matches('.').split(' ').map(word).collect::<Vec<_>>().join(" ");
        assert!(help.contains(&doc), "{name}: {doc}");
    }
}

#[test]
fn cli_generate_lists_may_stand_without_brackets() {
    let input = ["--input-ids", "5,8,1", "--json"];
    let ids = |options: &[&str]| {
        let line: Value = serde_json::from_str(&answer(&[&input[..], options].concat())).unwrap();
        line["sequences"][0]["ids"].clone()
    };
    for [bare, json] in [
        ["--suppress-tokens=40,41", "--suppress-tokens=[40,41]"],
        ["--suppress-tokens=40", "--suppress-tokens=[40]"],
        ["--bad-words-ids=[40],[41,42]", "--bad-words-ids=[[40],[41,42]]"],
        ["--exponential-decay-length-penalty=2,1.5", "--exponential-decay-length-penalty=[2,1.5]"],
    ] {
        assert_eq!(ids(&[bare]), ids(&[json]), "{bare}");
    }
    // A text that is a number is a text.
    assert!(tiny_t5(&["--decoder-prefix", "5", "hello"]).output().unwrap().status.success());
    // JSON's null is no value, and a text is what it is.
    let (code, error) = failure(tiny_t5(&["--num-beams", "null", "hello"]));
    assert!(code == 2 && error.contains("--num-beams"), "{error}");
    assert_ne!(answer(&["--decoder-prefix", "null", "hello"]), answer(&["hello"]));
    let output = tiny_t5(&["--logprobs", "hello"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--json"), "{output:?}");
}

#[test]
fn cli_generate_flags_stand_alone_or_with_a_value() {
    let plain = answer(&["hello"]);
    let alike: [&[&str]; 6] = [
        &["--remove-invalid-values"],
        &["--remove-invalid-values", "true"],
        &["--remove-invalid-values=true"],
        &["--do-sample", "false"],
        &["--do-sample=false"],
        &["--do-sample", "--top-k", "1"],
    ];
    for flag in alike {
        assert_eq!(answer(&[flag, &["hello"]].concat()), plain, "{flag:?}");
    }
}

#[test]
fn cli_generate_first_word_that_is_a_command_is_the_command() {
    assert!(answer(&["--threads", "1", "info"]).starts_with("model "), "also behind options");
    assert_eq!(answer(&["hello", "info"]), answer(&["generate", "hello", "info"]), "only the first word");
    assert_eq!(answer(&["--", "--threads"]).lines().count(), 1, "behind `--` nothing is an option");
}

#[test]
fn cli_generate_empty_text_is_its_end_token_alone() {
    assert_eq!(json_of(tiny_t5(&["generate", ""]))["input_ids"], serde_json::json!([1]));
    let mut nothing = tiny_t5(&["generate"]);
    nothing.write_stdin("");
    assert_eq!(run(nothing), (0, String::new(), String::new()), "no line, no source");
}

#[test]
fn cli_generate_answers_each_line_while_the_writer_waits() {
    use std::io::{BufRead, BufReader, Write};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stdout = BufReader::new(stdout);
    for _ in 0..3 {
        writeln!(stdin, "photosynthesis").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ˌfoʊtoʊˈsɪnθəsəs\n");
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

/// The most memory that a process has had, in KB.
#[cfg(target_os = "linux")]
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Lines come as fast as they are taken, answers go as they are made: the memory of 20,000 is that of the first 1,000.
#[cfg(target_os = "linux")]
#[test]
fn cli_generate_over_a_pipe_takes_constant_memory() {
    use std::io::{BufRead, BufReader, Write};
    const LINES: usize = 20_000;
    let line = |i: usize| ["hello", "a", "one two three", "rhythm and blues"][i % 4];
    let expected: Vec<String> = (0..4).map(|i| answer(&["--max-new-tokens", "1", line(i)])).collect();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .args(["--max-new-tokens", "1", "--threads", "1"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writer = std::thread::spawn(move || {
        (0..LINES).for_each(|i| writeln!(stdin, "{}", line(i)).unwrap());
        stdin // open until the memory is read
    });
    let (mut early, mut late) = (0, 0);
    let mut stdout = BufReader::new(stdout);
    for i in 0..LINES {
        let mut text = String::new();
        stdout.read_line(&mut text).unwrap();
        assert_eq!(text, expected[i % 4], "line {i}");
        if i + 1 == 1_000 {
            early = peak_memory(child.id());
        }
        if i + 1 == LINES {
            late = peak_memory(child.id());
        }
    }
    drop(writer.join().unwrap());
    assert!(child.wait().unwrap().success());
    assert!(late <= early + 2_048, "{early} KB after 1,000 lines, {late} KB after {LINES}");
    assert!(late < 160 * 1024, "{late} KB");
}

#[test]
fn cli_generate_logprobs_stand_in_json_where_asked_for() {
    let t5 = tiny_t5::T5::embedded(&tiny_t5::Load::default()).unwrap();
    let none = &lines(&["--json", "hello"])[0]["sequences"][0];
    assert_eq!(keys(none), ["finish", "ids", "text"]);
    for more in [&["--num-beams", "1"][..], &["--num-beams", "3"], &["--do-sample", "--seed", "4"]] {
        let line = &lines(&[&["--json", "--logprobs", "hello"], more].concat())[0];
        let sequence = &line["sequences"][0];
        assert_eq!(
            keys(sequence),
            ["finish", "ids", "logprobs", "score", "text"],
            "greedy has a score too where asked for"
        );
        let ids: Vec<u32> = serde_json::from_value(sequence["ids"].clone()).unwrap();
        let score = t5.score("hello", &ids).unwrap();
        for ((token, id), logprob) in
            sequence["logprobs"].as_array().unwrap().iter().zip(&ids).zip(&score.token_logprobs)
        {
            assert_eq!(keys(token), ["id", "logprob", "token"]);
            assert_eq!(token["id"], *id);
            assert_eq!(token["token"], *t5.tokenizer().unwrap().id_to_token(*id).unwrap());
            assert_eq!(token["logprob"].to_string().parse::<f32>().unwrap().to_bits(), logprob.to_bits());
        }
    }
    let top = &lines(&["--json", "--top-logprobs", "3", "hello"])[0]["sequences"][0]["logprobs"];
    for token in top.as_array().unwrap() {
        let best = token["top_logprobs"].as_array().unwrap();
        assert_eq!((best.len(), keys(&best[0])), (3, vec!["id", "logprob", "token"]));
        assert_eq!((&best[0]["id"], &best[0]["logprob"]), (&token["id"], &token["logprob"]), "greedy takes the best");
    }
    let ids = json_of(with_golden("v1_0-relu-tied", &["--logprobs", "--input-ids", "5,8,1"]));
    assert_eq!(keys(&ids["sequences"][0]["logprobs"][0]), ["id", "logprob"], "no tokenizer, no token");
}

#[test]
fn cli_generate_choices_answer_with_one_of_them() {
    let choices = ["--choices", "ˈɹɪðəm,həˈloʊ,ˈeɪ"];
    let of = |more: &[&str]| answer(&[&choices, more].concat());
    let both = of(&["rhythm", "hello"]);
    let (text, probability): (Vec<&str>, Vec<f64>) = both
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(text, p)| (text, p.parse::<f64>().unwrap()))
        .unzip();
    assert_eq!(text, ["ˈɹɪðəm", "həˈloʊ"]);
    assert!(probability.iter().all(|p| *p > 0.9 && *p <= 1.0), "{both}");
    assert_eq!(of(&["--stream", "rhythm", "hello"]), both);
    let list = r#"["ˈɹɪðəm", "həˈloʊ", "ˈeɪ"]"#;
    assert_eq!(answer(&["--choices", list, "rhythm", "hello"]), both);
    for more in [&["--num-beams", "2"][..], &["--do-sample", "--seed", "7"], &["--min-new-tokens", "15"]] {
        let all = of(&[&["hello", "no such word"], more].concat());
        let texts: Vec<&str> = all.lines().filter_map(|line| line.split('\t').next()).collect();
        assert!(texts.iter().all(|text| ["ˈɹɪðəm", "həˈloʊ", "ˈeɪ"].contains(text)), "{all}");
    }
    let ranked = &lines(&[&choices[..], &["--json", "--num-return-sequences", "3", "hello"]].concat())[0]["sequences"];
    let sum: f64 = ranked.as_array().unwrap().iter().map(|s| s["probability"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6);
    assert_eq!((&ranked[0]["choice"], &ranked[0]["text"]), (&1.into(), &"həˈloʊ".into()));
    assert_eq!(keys(&ranked[0]), ["choice", "finish", "ids", "probability", "score", "text"]);
    let ids = json_of(with_golden("v1_0-relu-tied", &["--choices", "[[5,8],[5],[7,9,3]]", "--input-ids", "5,8,1"]));
    let chosen = ids["sequences"][0]["choice"].as_u64().unwrap() as usize;
    assert_eq!(
        ids["sequences"][0]["ids"],
        [serde_json::json!([5, 8, 1]), serde_json::json!([5, 1]), serde_json::json!([7, 9, 3, 1])][chosen]
    );
    fails(&["--choices", "a,b,a", "x"], 2, &["--choices", "choice 3", "choice 1"]);
    fails(&["--choices", "a,,b", "x"], 2, &["--choices", "choice 2", "nothing"]);
    fails(&["--choices", "[1,2]", "x"], 2, &["--choices", "[1,2]", "expected texts"]);
    fails(&["--choices", "a,b", "--num-return-sequences", "3", "x"], 2, &["--num-return-sequences", "1 to 2"]);
}

#[test]
fn cli_generate_decoder_prefix_begins_every_text() {
    let text = answer(&["--decoder-prefix", "ˌfoʊ", "rhythm", "hello"]);
    assert!(text.lines().all(|line| line.starts_with("ˌfoʊ")), "{text}");
}

#[cfg(unix)]
#[test]
fn cli_generate_broken_pipe_is_success() {
    use std::io::Write;
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tiny-t5"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    // It may be gone before it has read all.
    let _ = child.stdin.take().unwrap().write_all("hello\n".repeat(1000).as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn cli_generate_answers_what_stands_before_a_bad_source() {
    let mut long = tiny_t5(&["--max-source-tokens", "5"]);
    long.write_stdin("one\ntwo\nphotosynthesis\nthree\n");
    let (code, out, err) = run(long);
    assert_eq!((code, out.as_str(), err.lines().count()), (1, "ˈwʌn\nˈtu\n", 1));
    assert!(err.starts_with("error: standard input, line 3: "), "{err}");

    let mut endless = tiny_t5(&["generate"]);
    endless.write_stdin([&b"one\n"[..], &vec![b'a'; (16 << 20) + 1]].concat());
    let (code, out, err) = run(endless);
    assert_eq!((code, out.as_str()), (1, "ˈwʌn\n"));
    assert!(err.starts_with("error: standard input, line 2: found over 16777216 bytes"), "{err}");

    // A line of exactly as many is read, and has too many tokens.
    let mut long = tiny_t5(&["generate"]);
    long.write_stdin([&vec![b'a'; 16 << 20][..], b"\n"].concat());
    let (code, _, err) = run(long);
    assert!(code == 1 && err.contains("max_source_tokens"), "{err}");

    let mut bytes = tiny_t5(&["generate"]);
    bytes.write_stdin(&b"one\ntwo\n\xff\nthree\n"[..]);
    let message = "error: standard input, line 3: found bytes that are not UTF-8\n";
    assert_eq!(run(bytes), (1, "ˈwʌn\nˈtu\n".into(), message.into()));

    let (code, out, err) = run(tiny_t5(&["--input-ids", "5,1", "--input-ids", "500,1"]));
    assert_eq!((code, out.lines().count()), (1, 1));
    assert!(err.starts_with("error: source 2: "), "{err}");
}

#[test]
fn cli_notes_are_one_line_for_all_sources() {
    let two = ["--input-ids", "1", "--input-ids", "152,1"];
    for more in [&[][..], &["--stream"]] {
        let (code, _, err) = run(with_golden("v1_0-relu-tied", &[&two, more].concat()));
        assert_eq!((code, err.lines().count()), (0, 1), "{err}");
        assert!(err.starts_with("note: 2 sequences ended at the default limit of 20 new tokens"), "{err}");
    }
    let (_, _, err) = run(with_golden("v1_0-relu-tied", &["--input-ids", "1", "--max-new-tokens", "20"]));
    assert_eq!(err, "", "a limit that was asked for is no news");
    let (_, out, err) = run(tiny_t5(&["--max-length", "3", "hello"]));
    assert!(err.starts_with("note: --max-length gives way to the checkpoint's own max_new_tokens"), "{err}");
    assert_eq!(out, answer(&["hello"]));
    let (_, _, err) = run(tiny_t5(&["--max-time", "0.000001", "one", "two"]));
    assert_eq!(err, "note: 2 sequences were stopped by the limit of time, max_time\n");
    let (_, _, err) = run(tiny_t5(&["score", "--target", "日", "日本"]));
    assert!(err.starts_with("note: 2 texts have characters"), "{err}");
    let (code, _, err) = run(tiny_t5(&["日本", "a日", "plain"]));
    assert_eq!((code, err.lines().count()), (0, 1), "{err}");
    assert!(err.starts_with("note: 2 texts have characters"), "{err}");
    assert_eq!(run(tiny_t5(&["--input-ids", "2,1"])).2, "", "ids are what was asked for");
    let gaps = ["infill", "a <extra_id_0> walks"];
    let (_, _, err) = run(with_golden("byt5-shape", &gaps));
    assert!(err.starts_with("note: 1 sequence ended at the default limit of 20 new tokens"), "{err}");
    assert_eq!(run(with_golden("byt5-shape", &[&gaps[..], &["--max-new-tokens", "20"]].concat())).2, "");
}
