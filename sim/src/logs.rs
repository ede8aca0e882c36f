//! What product code says through `tracing`: printed with virtual time and node name, or listened to.
//!
//! Without `--log` a single kind of event is let through: a vote that leaves a member (target
//! [`VOTE_TARGET`], fields `term`, `candidate` and `voter`). It is the one observation that no probe can make,
//! since what matters is what was answered just before a crash.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::world::current_name;

/// The target of the events that say "this member voted".
pub const VOTE_TARGET: &str = "quorate::vote";

/// Told of each vote: the voter's name, term, candidate, the voter's id.
pub type VoteListener = Arc<dyn Fn(&str, u64, u64, u64) + Send + Sync>;

/// Told of each line of a member's own log, down to "info": member, level, text.
pub type LineListener = Arc<dyn Fn(&str, Level, &str) + Send + Sync>;

/// The subscriber of a simulation process.
pub struct Logs {
    print: Option<Level>,
    listener: Mutex<Option<VoteListener>>,
    lines: Option<LineListener>,
}

impl Logs {
    /// Installs the subscriber of this process; `print`: the most talkative level that is printed.
    pub fn install(print: Option<Level>, listener: VoteListener, lines: Option<LineListener>) {
        let logs = Logs {
            print,
            listener: Mutex::new(Some(listener)),
            lines,
        };
        // A process runs one simulation: nobody has installed one before.
        let _ = tracing::subscriber::set_global_default(logs);
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        let is_told = metadata.target() == VOTE_TARGET || self.prints(metadata) || self.is_line(metadata);
        metadata.is_event() && is_told
    }

    /// A line of the product's own, which the listener for lines wants.
    fn is_line(&self, metadata: &Metadata<'_>) -> bool {
        let own = metadata.target().starts_with("quorate") && metadata.target() != VOTE_TARGET;
        self.lines.is_some() && own && *metadata.level() <= Level::INFO
    }

    fn prints(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), *metadata.level());
        self.print.is_some_and(|limit| {
            // The library tells every step at "info": of interest to those who ask for more.
            let chatter = target.starts_with("openraft") && level > Level::WARN && limit <= Level::INFO;
            level <= limit && !chatter && !target.starts_with("madsim")
        })
    }
}

impl Subscriber for Logs {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.wants(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let printed = self.print.map_or(LevelFilter::INFO, LevelFilter::from_level);
        Some(printed.max(LevelFilter::INFO))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        let name = current_name();
        if metadata.target() == VOTE_TARGET {
            let listener = self
                .listener
                .lock()
                .expect("nothing panics under this lock")
                .clone();
            if let (Some(listener), Some(term), Some(candidate), Some(voter)) =
                (listener, fields.term, fields.candidate, fields.voter)
            {
                listener(&name, term, candidate, voter);
            }
        }
        if let Some(lines) = self.lines.as_ref().filter(|_| self.is_line(metadata)) {
            lines(&name, *metadata.level(), &fields.text);
        }
        if self.prints(metadata) {
            let elapsed = madsim::time::TimeHandle::try_current().map(|time| time.elapsed());
            let at = elapsed.unwrap_or_default().as_secs_f64();
            let (level, target, text) = (metadata.level(), metadata.target(), &fields.text);
            eprintln!("{at:12.6} {name:<8} {level:>5} {target}: {text}");
        }
    }
}

#[derive(Default)]
struct Fields {
    text: String,
    term: Option<u64>,
    candidate: Option<u64>,
    voter: Option<u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "term" => self.term = Some(value),
            "candidate" => self.candidate = Some(value),
            "voter" => self.voter = Some(value),
            _ => {}
        }
        self.record_debug(field, &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.text, "{value:?} "),
            name => write!(self.text, "{name}={value:?} "),
        };
        written.expect("a string takes any text");
    }
}
