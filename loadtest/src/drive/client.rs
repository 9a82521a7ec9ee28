//! Performs one request from its due time to its verdict and stamps what happens on the way.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{sleep_until, timeout_at};

use super::answer::Answer;
use super::chunk::{Usage, error_code};
use super::embeddings;
use super::link::{Link, SendError};
use super::meters::Meters;
use super::prompt::{Ask, Message, Role};
use super::record::{Labels, Record, Stamps};
use super::sim_tokens::TokenCheck;
use super::target::Target;
use super::verdict::{Class, Failure, Verdict, judge};
use crate::clock::{Clock, Nanos};
use crate::extras::Extras;
use crate::limits::{MAX_ERROR_BYTES, MAX_SITE_BYTES, MAX_VECTORS_BYTES};
use crate::workload::{Item, Place, Workload};

/// The response header in which gateways name the site that answered.
const SITE: &str = "x-hansa-site";

/// What all requests of a run share.
#[derive(Debug, Clone)]
pub struct Client {
    /// What is asked.
    pub workload: Arc<Workload>,
    /// Where it is sent.
    pub target: Target,
    /// The target's addresses.
    pub addresses: Vec<SocketAddr>,
    /// Time limit of a request, counted from its due time.
    pub timeout: Nanos,
    /// Whether texts are compared with the formula of a simulated model.
    pub check_sim_tokens: bool,
    /// The run's clock.
    pub clock: Clock,
    /// Live counts.
    pub meters: Arc<Meters>,
}

/// One request to perform.
#[derive(Debug)]
pub struct Job {
    /// Its number in the run.
    pub index: u64,
    /// Its place in the workload, which fixes what it asks.
    pub place: Place,
    /// The stage of the schedule.
    pub stage: Option<Arc<str>>,
    /// When it is due; a user who thinks until then holds the connection.
    pub intended: Nanos,
    /// The chat before it.
    pub history: Vec<Message>,
    /// An idle connection, if there is one.
    pub link: Option<Link>,
}

/// A request that is over.
#[derive(Debug)]
pub struct Finished {
    /// What came of it.
    pub record: Record,
    /// Its connection, if another request may use it.
    pub link: Option<Link>,
    /// The chat with its answer, if the session goes on.
    pub chat: Vec<Message>,
}

impl Client {
    /// Performs a request; ends at its time limit at the latest.
    pub async fn perform(&self, mut job: Job) -> Finished {
        let deadline = job.intended.saturating_add(self.timeout);
        let item = self
            .workload
            .item(job.place, std::mem::take(&mut job.history));
        let request = self.request(&item);
        if job.intended > self.clock.now() {
            let _thinking = self.meters.think();
            sleep_until(self.clock.instant_at(job.intended)).await;
        }
        let sent = self.clock.now();
        if sent >= deadline {
            let failure = Class::NotSent.because("its time ran out before it could be sent");
            return Finished {
                record: not_sent(labels(&job, &item), job.intended, sent, failure),
                link: job.link,
                chat: Vec::new(),
            };
        }
        let _in_flight = self.meters.begin();
        let mut attempt = Attempt::new(self, job, item, sent);
        let ended = timeout_at(self.clock.instant_at(deadline), attempt.run(request)).await;
        let failure = match ended {
            Ok(outcome) => outcome.err(),
            Err(_) => Some(Class::Timeout.because(attempt.phase())),
        };
        attempt.finish(failure)
    }

    fn request(&self, item: &Item) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(Bytes::from(item.ask.body())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from(self.target.path().clone());
        request.headers_mut().clone_from(self.target.headers());
        let tenant = item.tenant.as_ref();
        if let Some(key) = tenant.and_then(|tenant| tenant.authorization.clone()) {
            request.headers_mut().insert(AUTHORIZATION, key);
        }
        request
    }
}

/// The record of a request that was never begun.
pub fn not_sent(labels: Labels, intended: Nanos, now: Nanos, failure: Failure) -> Record {
    Record {
        labels,
        stamps: Stamps {
            intended,
            end: now,
            ..Stamps::default()
        },
        verdict: Verdict::Failed(failure),
        usage: None,
        gaps_us: Vec::new(),
        extras: Extras::default(),
    }
}

fn labels(job: &Job, item: &Item) -> Labels {
    Labels {
        index: job.index,
        place: job.place,
        model: item.ask.model.clone(),
        tenant: item.tenant.as_ref().map(|tenant| tenant.name.clone()),
        stage: job.stage.clone(),
        site: None,
        form: item.ask.form.as_ref().map(|form| form.name.clone()),
    }
}

/// A request under way. What it has learnt survives its being cut off by the time limit.
struct Attempt<'a> {
    client: &'a Client,
    ask: Arc<Ask>,
    labels: Labels,
    stamps: Stamps,
    link: Option<Link>,
    /// The body was read to its proper end: the connection can be used again.
    whole: bool,
    /// Content events after which the client goes away.
    abort_after: Option<u32>,
    aborted: bool,
    answer: Answer,
    /// What the headers told.
    extras: Extras,
    /// The counts of an answer with vectors.
    vectors: Option<Usage>,
}

impl<'a> Attempt<'a> {
    fn new(client: &'a Client, job: Job, item: Item, sent: Nanos) -> Self {
        let labels = labels(&job, &item);
        let text = item.goes_on.then(String::new);
        let ask = Arc::new(item.ask);
        let seed = ask.seed.filter(|_| client.check_sim_tokens);
        let tokens = seed.map(|seed| TokenCheck::new(seed, 0));
        Self {
            client,
            ask: ask.clone(),
            labels,
            stamps: Stamps {
                intended: job.intended,
                sent: Some(sent),
                ..Stamps::default()
            },
            link: job.link,
            whole: false,
            abort_after: item.abort_after,
            aborted: false,
            answer: Answer::new(ask, tokens, text),
            extras: Extras::default(),
            vectors: None,
        }
    }

    async fn run(&mut self, request: Request<Full<Bytes>>) -> Result<(), Failure> {
        let response = self.send(request).await?;
        self.stamps.headers = Some(self.client.clock.now());
        self.labels.site = site(response.headers());
        self.extras = Extras::of_headers(response.headers());
        let status = response.status();
        let is_stream = is_event_stream(&response);
        let body = response.into_body();
        if status != StatusCode::OK {
            return Err(self.read_error(status, body).await);
        }
        if !self.ask.endpoint.streams() {
            return self.read_vectors(body).await;
        }
        if !is_stream {
            return Err(Class::MalformedSse.because("content-type is not text/event-stream"));
        }
        self.read_stream(body).await
    }

    /// Sends on the idle connection if it still lives, else on a new one. An idle connection that the server closes
    /// before it says a word is no failure: servers that end a connection after an answer without saying so (llama.cpp's)
    /// cross with the next request, and clients in the field, curl among them, open another one.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        if let Some(link) = &mut self.link
            && link.is_open()
        {
            self.stamps.connected = Some(self.client.clock.now());
            match link.send(request.clone()).await {
                Ok(response) => return Ok(response),
                Err(SendError::Unsent | SendError::Closed) => {}
                Err(SendError::Lost(failure)) => return Err(failure),
            }
        }
        self.stamps.connected = None;
        let link = self
            .link
            .insert(Link::connect(&self.client.addresses, self.client.target.tls()).await?);
        self.stamps.connected = Some(self.client.clock.now());
        match link.send(request).await {
            Ok(response) => Ok(response),
            Err(SendError::Lost(failure)) => Err(failure),
            Err(SendError::Unsent) => Err(Class::Connect.because("lost at once")),
            Err(SendError::Closed) => Err(Class::NoAnswer.because("closed before an answer")),
        }
    }

    async fn read_stream(&mut self, mut body: Incoming) -> Result<(), Failure> {
        while let Some(piece) = self.next_piece(&mut body).await? {
            let at = self.client.clock.now();
            self.stamps.first_byte.get_or_insert(at);
            let before = self.answer.told().content_events;
            let read_on = self.answer.take(&piece, at);
            self.client
                .meters
                .add_events(self.answer.told().content_events - before);
            if read_on.is_break() {
                return Ok(());
            }
            if self.goes_away() {
                self.aborted = true;
                return Ok(());
            }
        }
        self.whole = true;
        Ok(())
    }

    /// Reads an answer that is no stream as a whole.
    async fn read_vectors(&mut self, mut body: Incoming) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        while let Some(piece) = self.next_piece(&mut body).await? {
            let at = self.client.clock.now();
            self.stamps.first_byte.get_or_insert(at);
            if bytes.len() + piece.len() > MAX_VECTORS_BYTES {
                return Err(Class::MalformedSse.because("an answer beyond its bound"));
            }
            bytes.extend_from_slice(&piece);
        }
        self.whole = true;
        // Reading the numbers is the client's work: the stamp comes before.
        self.stamps.terminal = Some(self.client.clock.now());
        self.vectors = Some(embeddings::judge(&bytes, &self.ask)?);
        Ok(())
    }

    /// Whether the client has had enough, before the answer is over.
    fn goes_away(&self) -> bool {
        let told = self.answer.told();
        let enough = |after: u32| told.content_events >= after as usize;
        !told.finished && told.error.is_none() && self.abort_after.is_some_and(enough)
    }

    /// Reads an error answer as far as its bound, for its code.
    async fn read_error(&mut self, status: StatusCode, mut body: Incoming) -> Failure {
        let mut text = Vec::new();
        loop {
            match self.next_piece(&mut body).await {
                Ok(Some(piece)) if text.len() + piece.len() <= MAX_ERROR_BYTES => {
                    text.extend_from_slice(&piece);
                }
                Ok(Some(_)) | Err(_) => break,
                Ok(None) => {
                    self.whole = true;
                    break;
                }
            }
        }
        let code = error_code(&text)
            .map(|code| format!(" {code}"))
            .unwrap_or_default();
        Class::of_status(status.as_u16()).because(format!("{}{code}", status.as_u16()))
    }

    /// The next bytes of the body; None at its proper end. Trailers and empty pieces are passed over.
    async fn next_piece(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        let lost = || Class::Truncated.because("connection lost mid-stream");
        let link = self.link.as_mut().ok_or_else(lost)?;
        while let Some(frame) = link.next_frame(body).await {
            match frame.map_err(|_| lost())?.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// What the request was waiting for, in words.
    fn phase(&self) -> &'static str {
        if self.stamps.connected.is_none() {
            "while connecting"
        } else if self.stamps.headers.is_none() {
            "before the response headers"
        } else if self.answer.told().first_content.is_none() {
            "before the first content"
        } else if self.answer.told().done {
            "after [DONE], stream left open"
        } else {
            "mid-stream"
        }
    }

    fn finish(mut self, failure: Option<Failure>) -> Finished {
        let told = self.answer.into_told();
        let verdict = if self.aborted {
            Verdict::Aborted
        } else if self.ask.endpoint.streams() {
            judge(&told, &self.ask, failure)
        } else {
            failure.map_or(Verdict::Good, Verdict::Failed)
        };
        self.stamps.first_content = told.first_content;
        self.stamps.last_content = told.last_content;
        self.stamps.terminal = told.terminal.or(self.stamps.terminal);
        self.stamps.end = self.client.clock.now();
        let (usage, gaps_us) = (told.usage.or(self.vectors), told.gaps_us);
        let chat = told.text.map_or(Vec::new(), |text| {
            let mut chat = self.ask.messages.clone();
            chat.push(Role::Assistant.says(text));
            chat
        });
        let record = Record {
            labels: self.labels,
            stamps: self.stamps,
            verdict,
            usage,
            gaps_us,
            extras: self.extras.with(told.extras),
        };
        Finished {
            record,
            link: self.link.filter(|_| self.whole),
            chat,
        }
    }
}

/// The site without its node: a report over sites has a line for each, not for each of their machines.
fn site(headers: &HeaderMap) -> Option<Arc<str>> {
    let place = headers.get(SITE)?.to_str().ok()?;
    let name = place.split('/').next().unwrap_or(place);
    (!name.is_empty() && name.len() <= MAX_SITE_BYTES).then(|| name.into())
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| {
        let essence = kind.split(';').next().unwrap_or("").trim();
        essence.eq_ignore_ascii_case("text/event-stream")
    })
}
