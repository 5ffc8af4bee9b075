//! One model, a few workers: each has a session and one thread, and takes requests from a queue. For many short requests at a time
//! this serves more of them than one call with many threads; a limit of time keeps a long one from holding its worker.
//!
//!     cargo run --release --features embedded --example worker_pool -- hello world

use std::sync::{Mutex, mpsc};
use std::thread;
use tiny_t5::{Finish, Generate, Load, Result, T5};

/// What a request was answered with, and whether in time.
pub struct Answer {
    /// The text, or as much of it as there was time for.
    pub text: String,
    /// It is whole.
    pub in_time: bool,
}

/// Answers requests with `workers` threads; answers come in the order of the requests.
pub fn serve(t5: &T5, requests: &[String], workers: usize, seconds: f64) -> Result<Vec<Answer>> {
    let options = Generate { max_time: Some(seconds), ..Generate::default() };
    let queue = Mutex::new(requests.iter().enumerate());
    let (send, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..workers {
            let (send, queue, options) = (send.clone(), &queue, &options);
            let mut session = t5.with_threads(1).session();
            scope.spawn(move || {
                loop {
                    // The queue is free again before the work begins.
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((number, request)) = next else { break };
                    let answer = session.generate(request, options).map(|generated| Answer {
                        text: generated.text().to_owned(),
                        in_time: generated.sequences.iter().all(|s| s.finish != Finish::Stopped),
                    });
                    if send.send((number, answer)).is_err() {
                        break;
                    }
                }
            });
        }
    });
    drop(send);
    let mut all: Vec<_> = answers.into_iter().collect();
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, answer)| answer).collect()
}

fn main() -> Result<()> {
    let t5 = T5::embedded(&Load::default())?;
    let requests: Vec<String> = std::env::args().skip(1).collect();
    for answer in serve(&t5, &requests, t5.threads(), 5.0)? {
        println!("{}{}", answer.text, if answer.in_time { "" } else { " (cut: no time left)" });
    }
    Ok(())
}
