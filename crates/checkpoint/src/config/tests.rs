use super::*;

fn parse(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn message(text: &str) -> String {
    Config::parse(text).expect_err(text).to_string()
}

#[test]
fn parse_empty_object_gives_t5_defaults() {
    let config = parse("{}");
    let sizes = [config.vocab_size, config.d_model, config.d_kv, config.d_ff, config.num_heads];
    assert_eq!(sizes, [32128, 512, 64, 2048, 8]);
    assert_eq!([config.num_layers, config.num_decoder_layers], [6, 6]);
    assert_eq!(config.relative_attention_num_buckets, 32);
    assert_eq!(config.relative_attention_max_distance, 128);
    assert_eq!(config.layer_norm_epsilon, 1e-6);
    assert_eq!((config.activation, config.is_gated_act), (Activation::Relu, false));
    assert_eq!(config.architecture, Architecture::ConditionalGeneration);
    assert_eq!(config.model_type, ModelType::T5);
    assert_eq!((config.pad_token_id, config.decoder_start_token_id), (0, 0));
    assert_eq!(config.eos_token_id, [1]);
    assert!(config.scale_decoder_outputs);
    assert_eq!(config.labels, ["LABEL_0", "LABEL_1"]);
}

#[test]
fn parse_mt5_and_umt5_have_their_own_defaults() {
    for (name, scaled) in [("mt5", false), ("umt5", true)] {
        let config = parse(&format!(r#"{{"model_type": "{name}", "bos_token_id": 7}}"#));
        let sizes = [config.vocab_size, config.d_ff, config.num_layers, config.num_heads];
        assert_eq!(sizes, [250_112, 1024, 8, 6]);
        assert_eq!((config.activation, config.is_gated_act), (Activation::GeluNew, true));
        assert_eq!(config.decoder_start_token_id, 0);
        assert_eq!(config.scale_decoder_outputs, scaled, "{name}");
    }
}

#[test]
fn parse_null_is_absent() {
    let config = parse(r#"{"num_decoder_layers": null, "num_layers": 3, "d_kv": null, "id2label": null}"#);
    assert_eq!((config.num_decoder_layers, config.d_kv), (3, 64));
}

#[test]
fn parse_feed_forward_names() {
    let cases = [
        (r#"{"feed_forward_proj": "gated-gelu"}"#, Activation::GeluNew, true),
        (r#"{"feed_forward_proj": "gelu"}"#, Activation::Gelu, false),
        (r#"{"feed_forward_proj": "gated-silu"}"#, Activation::Silu, true),
        (r#"{"feed_forward_proj": "gated-relu"}"#, Activation::Relu, true),
        (r#"{"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": true}"#, Activation::GeluNew, true),
        (r#"{"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}"#, Activation::Gelu, true),
        (r#"{"feed_forward_proj": "gated-gelu", "is_gated_act": false}"#, Activation::GeluNew, false),
    ];
    for (text, activation, gated) in cases {
        let config = parse(text);
        assert_eq!((config.activation, config.is_gated_act), (activation, gated), "{text}");
    }
    for name in ["gated-", "gated-gated-relu", "geglu", "swish-gated", "gated-gelu-relu", ""] {
        let text = format!(r#"{{"feed_forward_proj": "{name}"}}"#);
        assert!(message(&text).contains(&format!("feed_forward_proj is \"{name}\"")), "{name}");
    }
}

#[test]
fn parse_scale_follows_the_flag_then_the_tie() {
    let cases = [
        (r#"{"tie_word_embeddings": true}"#, true),
        (r#"{"tie_word_embeddings": false}"#, false),
        (r#"{"tie_word_embeddings": true, "scale_decoder_outputs": false}"#, false),
        (r#"{"tie_word_embeddings": false, "scale_decoder_outputs": true}"#, true),
    ];
    for (text, scaled) in cases {
        assert_eq!(parse(text).scale_decoder_outputs, scaled, "{text}");
    }
}

#[test]
fn parse_start_id_is_stated_or_bos_or_pad() {
    let start = |text| parse(text).decoder_start_token_id;
    assert_eq!(start(r#"{"decoder_start_token_id": 2, "bos_token_id": 3}"#), 2);
    assert_eq!(start(r#"{"bos_token_id": 3, "pad_token_id": 4}"#), 3);
    assert_eq!(start(r#"{"bos_token_id": null, "pad_token_id": 4}"#), 4);
}

#[test]
fn parse_architectures_by_name() {
    let cases = [
        ("T5ForConditionalGeneration", Architecture::ConditionalGeneration),
        ("T5WithLMHeadModel", Architecture::ConditionalGeneration),
        ("MT5Model", Architecture::ConditionalGeneration),
        ("UMT5EncoderModel", Architecture::Encoder),
        ("T5ForSequenceClassification", Architecture::SequenceClassification),
        ("UMT5ForTokenClassification", Architecture::TokenClassification),
        ("MT5ForQuestionAnswering", Architecture::QuestionAnswering),
    ];
    for (name, architecture) in cases {
        assert_eq!(parse(&format!(r#"{{"architectures": ["{name}"]}}"#)).architecture, architecture, "{name}");
    }
    for name in ["LongT5Model", "BartForConditionalGeneration", "T5GemmaModel", "T5", ""] {
        let text = format!(r#"{{"architectures": ["{name}"]}}"#);
        assert!(message(&text).contains(&format!("architectures is \"{name}\"")), "{name}");
    }
    assert!(message(r#"{"model_type": "longt5"}"#).contains("model_type is \"longt5\", expected t5, mt5 or umt5"));
    assert_eq!(parse(r#"{"architectures": ["MT5Model"]}"#).model_type, ModelType::Mt5);
    assert_eq!(parse(r#"{"architectures": [], "is_encoder_decoder": false}"#).architecture, Architecture::Encoder);
}

#[test]
fn settle_architecture_looks_at_tensors_only_where_the_config_is_silent() {
    let settle = |text: &str, tensor: &str, decoder| {
        let mut config = parse(text);
        config.settle_architecture(|name| name == tensor, decoder);
        config.architecture
    };
    assert_eq!(settle("{}", "", true), Architecture::ConditionalGeneration);
    assert_eq!(settle("{}", "", false), Architecture::Encoder);
    assert_eq!(settle("{}", "qa_outputs.weight", true), Architecture::QuestionAnswering);
    assert_eq!(settle("{}", "classifier.weight", false), Architecture::TokenClassification);
    let stated = r#"{"architectures": ["T5EncoderModel"]}"#;
    assert_eq!(settle(stated, "qa_outputs.weight", true), Architecture::Encoder);
    let alone = r#"{"is_encoder_decoder": false}"#;
    assert_eq!(settle(alone, "", true), Architecture::Encoder);
    assert_eq!(settle(alone, "classifier.weight", false), Architecture::TokenClassification);
}

#[test]
fn parse_labels_are_in_the_order_of_ids() {
    let labels = parse(
        r#"{"id2label": {"10": "k", "0": "a", "2": "c", "1": "b", "3": "d", "4": "e",
        "5": "f", "6": "g", "7": "h", "8": "i", "9": "j"}}"#,
    )
    .labels;
    assert_eq!(labels.concat(), "abcdefghijk");
    assert_eq!(parse(r#"{"num_labels": 3}"#).labels.len(), 3);
    for wrong in [r#"{"1": "a"}"#, r#"{"x": "a"}"#, r#"{"0": []}"#, r#"{"-1": "a"}"#, r#"{"0": "a", "00": "b"}"#, "[]"]
    {
        assert!(message(&format!(r#"{{"id2label": {wrong}}}"#)).contains("id2label"), "{wrong}");
    }
}

#[test]
fn parse_numbers_outside_their_limits_are_named() {
    let cases = [
        (r#"{"d_kv": 0}"#, "config.json: d_kv is 0, expected 1 to 65536"),
        (r#"{"num_layers": 1000000000000000000}"#, "num_layers is 1000000000000000000, expected 1 to 1024"),
        (r#"{"d_model": -64}"#, "d_model is -64, expected 1 to 65536"),
        (r#"{"d_model": 64.0}"#, "d_model is 64.0, expected 1 to 65536"),
        (r#"{"d_ff": "2048"}"#, "d_ff is \"2048\", expected 1 to 1048576"),
        (r#"{"vocab_size": 1e30}"#, "vocab_size is 1e+30, expected"),
        (r#"{"num_heads": [8]}"#, "num_heads is a list, expected"),
        (r#"{"layer_norm_epsilon": "NaN"}"#, "layer_norm_epsilon is \"NaN\", expected a number from 0 to 1"),
        (r#"{"layer_norm_epsilon": -1e-6}"#, "layer_norm_epsilon is"),
        (r#"{"relative_attention_num_buckets": 2}"#, "expected 4 to 65536"),
        (r#"{"relative_attention_max_distance": 16}"#, "relative_attention_max_distance is 16, expected 17 to"),
        (r#"{"pad_token_id": 32128}"#, "pad_token_id is 32128, expected 0 to 32127"),
        (r#"{"decoder_start_token_id": -1}"#, "decoder_start_token_id is -1, expected 0 to 32127"),
        (r#"{"eos_token_id": [1, -1]}"#, "eos_token_id is -1, expected an id"),
        (r#"{"eos_token_id": true}"#, "eos_token_id is true"),
        (r#"{"tie_word_embeddings": "no"}"#, "tie_word_embeddings is \"no\", expected true or false"),
        (r#"{"architectures": "T5Model"}"#, "architectures is \"T5Model\""),
        (r#"{"tokenizer_class": 3}"#, "tokenizer_class is 3"),
    ];
    for (text, expected) in cases {
        let message = message(text);
        assert!(message.contains(expected), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn parse_sizes_whose_product_overflows_are_an_error() {
    let text = r#"{"d_model": 65536, "d_kv": 65536, "num_heads": 4096, "num_layers": 1024}"#;
    assert!(message(text).contains("the model's size in bytes"), "{}", message(text));
}

#[test]
fn parse_text_that_is_no_object_is_an_error() {
    for text in ["", "[]", "3", "{", "{\"d_model\": NaN}", "null", &"[".repeat(100_000)] {
        assert!(matches!(Config::parse(text), Err(Error::Json { .. })));
    }
}
