//! The log, in the form that etcd's has: one JSON object per line, or tab-separated text.
//!
//! ```text
//! {"level":"info","ts":"2026-01-01T00:00:00.000000Z","caller":"cli/serve.rs:40","msg":"…","name":"a"}
//! ```
//!
//! It works from the first moment with etcd's defaults (JSON on stderr, level info), so that what is wrong
//! with the flags can be said; [`Logger::configure`] then switches to what was asked for. Each line is
//! written at once, with one call: a log that is lost in a crash is worth nothing.
//!
//! What comes from libraries is kept to warnings, whatever the level: openraft describes each message it
//! handles at level info.
//!
//! Times are UTC (etcd uses the machine's zone). A field's `Debug` text that is a JSON array is written as
//! an array, as zap writes lists. The simulator does not use this module.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::metadata::LevelFilter;
use tracing::span;
use tracing::{Event, Metadata, Subscriber};

use super::log_file::{RotatingFile, Rotation};
use crate::runtime::{Env, panics};

/// Target of events that end the process; their level is written as "fatal".
pub const FATAL: &str = "fatal";

/// etcd's levels, least important first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Level {
    const ALL: [Level; 6] = [
        Level::Debug,
        Level::Info,
        Level::Warn,
        Level::Error,
        Level::Panic,
        Level::Fatal,
    ];

    /// As zap reads it: lower or upper case, "" for info, and "dpanic".
    pub fn parse(text: &str) -> Option<Level> {
        if matches!(text, "dpanic" | "DPANIC") {
            return Some(Level::Panic);
        }
        let named = |level: &Level| text == level.name() || text == level.name().to_ascii_uppercase();
        match text {
            "" => Some(Level::Info),
            _ => Level::ALL.into_iter().find(named),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
            Level::Panic => "panic",
            Level::Fatal => "fatal",
        }
    }

    /// The level of an event. tracing has a level below debug and none above error.
    fn of(metadata: &Metadata<'_>) -> Level {
        match *metadata.level() {
            tracing::Level::ERROR if metadata.target() == FATAL => Level::Fatal,
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG | tracing::Level::TRACE => Level::Debug,
        }
    }
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Json,
    Console,
}

/// Where lines go; more than one is possible.
type Sink = Box<dyn Write + Send>;

struct Output {
    format: Format,
    sinks: Vec<Sink>,
}

/// The log of this process: a subscriber of tracing, and the last word of a panic.
pub struct Logger {
    env: Env,
    level: AtomicU8,
    output: Mutex<Output>,
}

impl Logger {
    /// Starts the log with etcd's defaults, makes it tracing's global subscriber, and makes a panic of
    /// the process end in a logged line and an abort, unless it is contained: a member that has lost an invariant must
    /// not serve.
    pub fn install(env: &Env) -> Arc<Logger> {
        let logger = Arc::new(Logger {
            env: env.clone(),
            level: AtomicU8::new(Level::Info as u8),
            output: Mutex::new(Output {
                format: Format::Json,
                sinks: vec![Box::new(io::stderr())],
            }),
        });
        // Fails only if a subscriber is set already; then that one is asked for all lines.
        let _ = tracing::subscriber::set_global_default(logger.clone());
        let last_word = logger.clone();
        std::panic::set_hook(Box::new(move |panic| {
            // Whoever contains it logs it, with the request that it ended.
            if !panics::note(panic) {
                last_word.write_panic(panic);
                std::process::abort();
            }
        }));
        logger
    }

    /// Switches to what `--log-level`, `--log-format` and `--log-outputs` ask for.
    pub fn configure(
        &self,
        level: &str,
        format: &str,
        outputs: &str,
        rotation: Option<&Rotation>,
    ) -> Result<(), String> {
        let level = Level::parse(level).ok_or_else(|| format!("unrecognized level: {level:?}"))?;
        let format = match format {
            "json" | "" => Format::Json,
            "console" => Format::Console,
            other => {
                return Err(format!(
                    "unknown log format: {other}, supported values json, console"
                ));
            }
        };
        let sinks = open_sinks(&self.env, outputs, rotation)?;
        *self.lock() = Output { format, sinks };
        self.level.store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Output> {
        // A panic while a line was written left nothing half changed that matters here.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_panic(&self, panic: &PanicHookInfo<'_>) {
        let message = panic.payload_as_str().unwrap_or("the panic has no message");
        let mut line = Line::new(Level::Panic, self.env.wall_clock(), message.to_owned());
        if let Some(place) = panic.location() {
            line.caller = caller(Some(place.file()), Some(place.line()));
        }
        let stack = std::backtrace::Backtrace::force_capture();
        line.fields
            .push(("stacktrace".to_owned(), Value::String(stack.to_string())));
        match self.output.try_lock() {
            Ok(mut output) => output.write(&line),
            // This thread may hold the lock: the panic is in a sink, or in the text of a field.
            Err(_) => eprintln!("{}", line.json()),
        }
    }
}

impl Output {
    fn write(&mut self, line: &Line) {
        let mut text = match self.format {
            Format::Json => line.json(),
            Format::Console => line.console(),
        };
        text.push('\n');
        for sink in &mut self.sinks {
            // A full disk below the log must not stop the server.
            let _ = sink.write_all(text.as_bytes()).and_then(|()| sink.flush());
        }
    }
}

fn open_sinks(env: &Env, outputs: &str, rotation: Option<&Rotation>) -> Result<Vec<Sink>, String> {
    let names: Vec<&str> = outputs.split(',').collect();
    if names.len() > 1 && names.contains(&"default") {
        return Err("multi logoutput for \"default\" is not supported yet".to_owned());
    }
    let mut sinks: Vec<Sink> = Vec::new();
    for name in names {
        sinks.push(match name {
            "default" | "stderr" => Box::new(io::stderr()),
            "stdout" => Box::new(io::stdout()),
            "systemd/journal" => return Err("--log-outputs=systemd/journal is not supported yet".to_owned()),
            path => {
                let told = |error| format!("open sink {path:?}: open {path}: {error}");
                match rotation {
                    Some(rotation) => {
                        let file = RotatingFile::open(env, Path::new(path), rotation.clone());
                        Box::new(file.map_err(told)?)
                    }
                    None => {
                        let file = OpenOptions::new().create(true).append(true).open(path);
                        Box::new(file.map_err(told)?)
                    }
                }
            }
        });
    }
    Ok(sinks)
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Spans carry nothing that is written.
        if !metadata.is_event() {
            return false;
        }
        let level = Level::of(metadata);
        let least = self.level.load(Ordering::Relaxed);
        level as u8 >= least && (level >= Level::Warn || is_ours(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let least = self.level.load(Ordering::Relaxed);
        Some(match least {
            least if least == Level::Debug as u8 => LevelFilter::DEBUG,
            least if least == Level::Info as u8 => LevelFilter::INFO,
            least if least == Level::Warn as u8 => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::new(Level::of(metadata), self.env.wall_clock(), String::new());
        line.caller = caller(metadata.file(), metadata.line());
        event.record(&mut line);
        self.lock().write(&line);
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        // Never called: no span is enabled.
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// Whether an event comes from this product rather than from a library below it.
fn is_ours(target: &str) -> bool {
    target == FATAL || target.starts_with("quorate")
}

/// The last folder and file, and the line: "cli/serve.rs:40".
fn caller(file: Option<&str>, line: Option<u32>) -> Option<String> {
    let file = file?;
    let short = match file.rmatch_indices('/').nth(1) {
        Some((at, _)) => &file[at + 1..],
        None => file,
    };
    Some(format!("{short}:{}", line.unwrap_or(0)))
}

/// One line before it is written.
struct Line {
    level: Level,
    /// Since the Unix epoch.
    time: Duration,
    caller: Option<String>,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Line {
    fn new(level: Level, time: Duration, message: String) -> Self {
        Line {
            level,
            time,
            caller: None,
            message,
            fields: Vec::new(),
        }
    }

    fn timestamp(&self) -> String {
        let nanos = i128::try_from(self.time.as_nanos()).unwrap_or(i128::MAX);
        match jiff::Timestamp::from_nanosecond(nanos) {
            Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
            // A clock beyond the year 9999.
            Err(_) => self.time.as_secs().to_string(),
        }
    }

    /// zap's order: level, ts, caller, msg, then the fields as they were given.
    fn json(&self) -> String {
        let mut text = format!(
            "{{\"level\":\"{}\",\"ts\":\"{}\"",
            self.level.name(),
            self.timestamp()
        );
        if let Some(caller) = &self.caller {
            let _ = write!(text, ",\"caller\":{}", Value::from(caller.as_str()));
        }
        let _ = write!(text, ",\"msg\":{}", Value::from(self.message.as_str()));
        for (name, value) in &self.fields {
            let _ = write!(text, ",{}:{value}", Value::from(name.as_str()));
        }
        text.push('}');
        text
    }

    fn console(&self) -> String {
        let mut text = format!("{}\t{}\t", self.timestamp(), self.level.name());
        if let Some(caller) = &self.caller {
            let _ = write!(text, "{caller}\t");
        }
        text.push_str(&self.message);
        if !self.fields.is_empty() {
            let field = |(name, value): &(String, Value)| format!("{}: {value}", Value::from(name.as_str()));
            let fields: Vec<_> = self.fields.iter().map(field).collect();
            let _ = write!(text, "\t{{{}}}", fields.join(", "));
        }
        text
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            (name, value) => self.fields.push((name.to_owned(), value)),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let list = text
            .starts_with('[')
            .then(|| serde_json::from_str(&text).ok())
            .flatten();
        self.push(field, list.unwrap_or(Value::String(text)));
    }
}

#[cfg(test)]
mod tests;
