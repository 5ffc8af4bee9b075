//! Search by sentence vectors: documents once, then a product a query.
//!
//!     cargo run --release --example sentence_search -- sentence-transformers/gtr-t5-base "do cats sleep?" < documents.txt

use std::io::BufRead;
use tiny_t5::{Result, Source, T5, normalized};

/// Documents with their vectors, each of length 1.
pub struct Index {
    documents: Vec<String>,
    vectors: Vec<Vec<f32>>,
}

impl Index {
    /// Computes the vectors.
    pub fn new(t5: &T5, documents: Vec<String>) -> Result<Index> {
        let sources: Vec<Source<'_>> = documents.iter().map(Source::from).collect();
        // GTR's vectors have length 1 already; other folders' may not.
        let vectors = t5.embed_batch(&sources)?.into_iter().map(normalized).collect();
        Ok(Index { documents, vectors })
    }

    /// The documents by their cosine with the query, best first.
    pub fn search(&self, t5: &T5, query: &str) -> Result<Vec<(f32, &str)>> {
        let query = normalized(t5.embed(query)?);
        let cosine = |vector: &Vec<f32>| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
        let mut found: Vec<(f32, &str)> =
            self.vectors.iter().map(cosine).zip(self.documents.iter().map(String::as_str)).collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        Ok(found)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(model), Some(query)) = (args.next(), args.next()) else {
        return Err("expected a model and a query".into());
    };
    let t5 = T5::open(model)?;
    let index = Index::new(&t5, std::io::stdin().lock().lines().collect::<std::io::Result<_>>()?)?;
    for (cosine, document) in index.search(&t5, &query)?.iter().take(10) {
        println!("{cosine:.4} {document}");
    }
    Ok(())
}
