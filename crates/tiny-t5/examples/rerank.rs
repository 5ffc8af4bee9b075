//! Re-ranking in monoT5's way: documents by the probability that the model answers `true` and not `false`.
//!
//!     cargo run --release --example rerank -- castorini/monot5-base-msmarco "do cats sleep?" < documents.txt

use std::io::BufRead;
use tiny_t5::{Result, Source, T5};

/// The documents by their relevance, 0 to 1, best first. `answers` are the words for relevant and not relevant.
pub fn rerank<'a>(
    t5: &T5,
    prompt: impl Fn(&str) -> String,
    documents: &'a [String],
    answers: (&str, &str),
) -> Result<Vec<(f32, &'a str)>> {
    let (relevant, other) = (t5.answer_token(answers.0)?, t5.answer_token(answers.1)?);
    let prompts: Vec<String> = documents.iter().map(|document| prompt(document)).collect();
    let sources: Vec<Source<'_>> = prompts.iter().map(Source::from).collect();
    let relevance = t5.answer_probability(&sources, relevant, other)?;
    let mut ranked: Vec<(f32, &str)> = relevance.into_iter().zip(documents.iter().map(String::as_str)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(ranked)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(query)) = (args.next(), args.next()) else {
        return Err("expected a model and a query".into());
    };
    let t5 = T5::open(model)?;
    let documents = std::io::stdin().lock().lines().collect::<std::io::Result<Vec<_>>>()?;
    let prompt = |document: &str| format!("Query: {query} Document: {document} Relevant:");
    for (relevance, document) in rerank(&t5, prompt, &documents, ("true", "false"))? {
        println!("{relevance:.4} {document}");
    }
    Ok(())
}
