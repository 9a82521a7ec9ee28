//! From a request to its first content: sent, tried elsewhere, moved, hedged.
//!
//! Until there is content its client has seen nothing, so all of it can be done again on another upstream: error answers
//! and late ones within the retry budget, requests whose connection died within a bound of how many may be on their way.
//! Who waits for an upstream that has fallen silent asks another beside it, and whose connections died everywhere waits a
//! while for the first that comes back: an upstream that broke a connection may well take the next one.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::{Either, select};
use tokio::time::sleep;

use crate::fairness::Full;
use crate::limits::{self, EVENTS_HELD_MAX};
use crate::route::decision::{Attempt, Decision, Reason};
use crate::route::means::Means;
use crate::route::prefix::HashKey;
use crate::route::{Ask, Unplaced};
use crate::upstream::patience::{Impatience, Pauses, impatience};
use crate::upstream::roster::{Inner, Sent};
use crate::upstream::routed::{may_come_back, nobody};
use crate::upstream::{
    Event, EventStream, GenerateRequest, Prompt, Retry, Upstream, UpstreamError, UpstreamErrorKind,
    Wishes,
};

/// A request on its way, and whom it has tried.
pub(super) struct Trip {
    pub(super) roster: Arc<Inner>,
    /// As it is sent: within the rules of this server.
    pub(super) request: Arc<GenerateRequest>,
    pub(super) prompt_bytes: u64,
    /// Hashes of its beginnings, and of its session.
    blocks: Vec<u64>,
    session: Option<u64>,
    /// Whether it waits here while everyone has a line.
    waits: bool,
    /// Upstreams that have failed it.
    tried: Vec<Arc<str>>,
    /// The digest that it must be continued under.
    pub(super) numerics: Option<Arc<str>>,
}

/// A request that was sent to someone.
pub(super) struct Leg {
    pub(super) sent: Sent,
    pub(super) upstream: Arc<dyn Upstream>,
    /// The upstream's name.
    pub(super) name: Arc<str>,
    pub(super) digest: Option<Arc<str>>,
    pub(super) decision: Arc<Decision>,
}

/// A stream with content.
pub(super) struct Live {
    pub(super) sent: Sent,
    pub(super) name: Arc<str>,
    pub(super) digest: Option<Arc<str>>,
    /// Events up to the first content, then the others.
    pub(super) held: VecDeque<Event>,
    pub(super) events: EventStream,
}

impl Trip {
    /// A request at its beginning.
    pub(super) fn new(roster: &Arc<Inner>, request: &Arc<GenerateRequest>) -> Self {
        let (key, wishes) = (roster.key, &request.wishes);
        // Whoever is alone needs no reason to be picked.
        let candidates = roster.candidates(&request.model);
        let choice = candidates > 1;
        let session = wishes.session.as_deref().filter(|_| choice);
        let narrowed = Wishes {
            rules: roster.rules(&wishes.rules),
            ..Wishes::clone(wishes)
        };
        let moves = roster.may_move(candidates);
        let resumable = roster.options.resumes_max > 0 && wishes.resume && moves;
        Self {
            roster: Arc::clone(roster),
            prompt_bytes: prompt_bytes(&request.prompt),
            blocks: match choice {
                true => blocks(key, request.pool, &request.prompt),
                false => Vec::new(),
            },
            session: session.map(|name| key.session(request.pool, name)),
            waits: choice && request.hops == 0,
            tried: Vec::new(),
            numerics: None,
            request: Arc::new(GenerateRequest {
                wishes: Arc::new(narrowed),
                want_token_ids: request.want_token_ids || resumable,
                ..GenerateRequest::clone(request)
            }),
        }
    }

    /// Sends the request to the best that is left.
    pub(super) fn depart(&mut self, attempt: Attempt) -> Result<Leg, Unplaced> {
        self.depart_to(attempt, false)
    }

    /// The same; where it `waits`, to nobody with a long line.
    fn depart_to(&mut self, attempt: Attempt, waits: bool) -> Result<Leg, Unplaced> {
        let request = &self.request;
        let ask = Ask {
            attempt,
            model: &request.model,
            prompt_bytes: self.prompt_bytes,
            blocks: &self.blocks,
            session: self.session,
            max_tokens: request.max_tokens,
            n: request.n,
            rules: &request.wishes.rules,
            hops: request.hops,
            tried: &self.tried,
            numerics: self.numerics.as_deref(),
            allocation: &|_| Means::Any,
            time_left: self.roster.time_left(request.deadline),
            waits,
        };
        let purse = request.purse.as_deref();
        self.roster.depart(&request.shown_id, &ask, purse)
    }

    /// The same; what it is paid from is fetched where it is not at hand.
    async fn depart_paid(&mut self, attempt: Attempt, waits: bool) -> Result<Leg, Unplaced> {
        let unplaced = match self.depart_to(attempt, waits) {
            Ok(leg) => return Ok(leg),
            Err(unplaced) => unplaced,
        };
        match self.request.purse.clone() {
            Some(purse) if !is_full(&unplaced) && purse.fetch().await => {
                self.depart_to(attempt, waits)
            }
            _ => Err(unplaced),
        }
    }

    /// Notes that an upstream has failed it.
    pub(super) fn fails(&mut self, upstream: &Arc<str>) {
        self.tried.push(Arc::clone(upstream));
    }

    /// Goes from one to the next until there is content.
    ///
    /// # Errors
    /// The last one's error, or why there is nobody.
    pub(super) async fn until_content(
        &mut self,
        mut attempt: Attempt,
    ) -> Result<Live, UpstreamError> {
        let roster = Arc::clone(&self.roster);
        let mut pauses = Pauses::default();
        let mut last_error = None;
        for _ in 0..self.legs_max(attempt) {
            let departed = match attempt {
                Attempt::First => self.depart_in_turn().await,
                _ => self.depart_patiently(attempt, &mut pauses).await,
            };
            let leg = match departed {
                Ok(leg) => leg,
                Err(error) => return Err(last_error.unwrap_or(error)),
            };
            let name = Arc::clone(&leg.name);
            let in_doubt = leg.decision.in_doubt;
            // Dead connections come in hundreds; those who wait here are bounded by the connections of their clients.
            let moving = matches!(attempt, Attempt::Move | Attempt::Resume);
            let place = match moving {
                true => roster.moves.acquire().await.ok(),
                false => None,
            };
            let went = self.leg(leg, attempt).await;
            drop(place);
            let error = match went {
                Ok(live) => {
                    // Whoever failed it before may be well again when this one breaks off.
                    self.tried.clear();
                    return Ok(live);
                }
                Err(error) => error,
            };
            if error.retry == Retry::Never {
                return Err(error);
            }
            self.fails(&name);
            attempt = match (attempt, died(&error)) {
                // As if it had not been tried: it waits for nobody, as one does not whom nobody takes.
                _ if in_doubt => attempt,
                (Attempt::Resume, _) => Attempt::Resume,
                (_, true) => Attempt::Move,
                (_, false) => Attempt::Retry,
            };
            // Who was in doubt and failed is as good as nobody.
            last_error = Some(error).filter(|_| !in_doubt);
        }
        Err(last_error.unwrap_or_else(|| UpstreamErrorKind::NotReady.into()))
    }

    /// Upstreams that may be tried until one has content. A request that nobody has answered yet may be what kills them; a
    /// stream has shown that it does not.
    fn legs_max(&self, attempt: Attempt) -> u32 {
        let max = self.roster.options.attempts_max.max(1);
        match attempt {
            Attempt::Resume => max.max(limits::RESUME_LEGS_MAX),
            _ => max,
        }
    }

    /// Sends the request as soon as somebody has room for it and it is its turn. Only the first server of a request lets it
    /// wait, and one with a single upstream leaves the order to that.
    async fn depart_in_turn(&mut self) -> Result<Leg, UpstreamError> {
        let roster = Arc::clone(&self.roster);
        let model = Arc::clone(&self.request.model);
        let waits = self.waits && roster.queue.is_kept();
        if !waits || roster.queue.is_empty(&model) {
            match self.depart_paid(Attempt::First, waits).await {
                Ok(leg) => return Ok(leg),
                Err(unplaced) if waits && is_full(&unplaced) => {}
                Err(unplaced) => return Err(nobody(&unplaced, &roster, &model)),
            }
        }
        let overloaded = |Full| UpstreamError::from(UpstreamErrorKind::Overloaded);
        let claim = roster.claim(&self.request, self.prompt_bytes);
        let mut seat = roster.queue.join(&model, claim).map_err(overloaded)?;
        let mut in_vain = 0;
        loop {
            seat.turn().await.map_err(overloaded)?;
            let believes = in_vain < limits::QUEUE_LOOKS_MAX;
            in_vain += 1;
            if believes && roster.is_full(&model) {
                sleep(limits::QUEUE_LOOK).await;
                seat.pass(None);
                continue;
            }
            match self.depart_paid(Attempt::First, believes).await {
                Ok(leg) => {
                    seat.enter();
                    return Ok(leg);
                }
                Err(unplaced) if is_full(&unplaced) => {
                    // There is room where it may not go: others must not wait for that.
                    seat.pass(Some(roster.clock.now() + limits::QUEUE_LOOK));
                    sleep(limits::QUEUE_LOOK).await;
                    roster.queue.look(&model);
                }
                Err(unplaced) => return Err(nobody(&unplaced, &roster, &model)),
            }
        }
    }

    /// Sends the request to the best that is left; where its connections died, to the first that comes back.
    async fn depart_patiently(
        &mut self,
        attempt: Attempt,
        pauses: &mut Pauses,
    ) -> Result<Leg, UpstreamError> {
        loop {
            let unplaced = match self.depart_paid(attempt, false).await {
                Ok(leg) => return Ok(leg),
                Err(unplaced) => unplaced,
            };
            let died = matches!(attempt, Attempt::Move | Attempt::Resume);
            let hopeful = died && may_come_back(&unplaced, &self.roster, &self.request.model);
            let pause = pauses.longer().filter(|_| hopeful);
            let left = self.roster.time_left(self.request.deadline);
            let Some(pause) = pause.filter(|pause| left.is_none_or(|left| *pause < left)) else {
                return Err(nobody(&unplaced, &self.roster, &self.request.model));
            };
            sleep(pause).await;
            self.tried.clear();
        }
    }

    /// One leg, with a second beside it where the first takes long or its upstream falls silent.
    async fn leg(&mut self, leg: Leg, attempt: Attempt) -> Result<Live, UpstreamError> {
        let parcel = self.parcel(&leg);
        let hedge = self.roster.options.hedge;
        // What comes in one piece is silent until all of it is there.
        let hedge = hedge.filter(|_| attempt == Attempt::First && !parcel.request.whole);
        let hedge = hedge.and_then(|h| h.silence(self.prompt_bytes, leg.sent.expected_s()));
        let silence = leg.upstream.silence();
        let name = Arc::clone(&leg.name);
        let first = content(leg, parcel, None);
        if hedge.is_none() && silence.is_none() {
            return first.await;
        }
        let mut first = Box::pin(first);
        let why = match select(&mut first, pin!(impatience(hedge, silence))).await {
            Either::Left((done, _)) => return done,
            Either::Right((Impatience::Slow, _)) => Attempt::Hedge,
            Either::Right((Impatience::Silent, _)) if attempt == Attempt::Resume => attempt,
            Either::Right((Impatience::Silent, _)) => Attempt::Move,
        };
        // Only for the second: the first may still be the one who answers.
        self.tried.push(name);
        let second = self.depart(why);
        self.tried.pop();
        let Ok(second) = second else {
            return first.await;
        };
        let place = (why != Attempt::Hedge).then(|| Arc::clone(&self.roster));
        let parcel = self.parcel(&second);
        let second = Box::pin(content(second, parcel, place));
        match select(first, second).await {
            Either::Left((Ok(live), _)) | Either::Right((Ok(live), _)) => Ok(live),
            Either::Left((Err(_), other)) => other.await,
            Either::Right((Err(_), other)) => other.await,
        }
    }

    /// What a leg needs to send the request and to tell what came of it.
    fn parcel(&self, leg: &Leg) -> Parcel {
        let session = self.session.into_iter();
        let mut request = Arc::clone(&self.request);
        if request.whole && !leg.upstream.takes_whole() {
            Arc::make_mut(&mut request).whole = false;
        }
        Parcel {
            roster: Arc::clone(&self.roster),
            request,
            seen: self.blocks.iter().copied().chain(session).collect(),
        }
    }
}

/// Whether somebody would serve who has a long line.
fn is_full(unplaced: &Unplaced) -> bool {
    unplaced.0.filtered.of(Reason::Full) > 0
}

struct Parcel {
    roster: Arc<Inner>,
    request: Arc<GenerateRequest>,
    /// Hashes of what the candidate will have served.
    seen: Vec<u64>,
}

/// Waits for a leg's first content, for a place on the way at `places` first.
async fn content(
    leg: Leg,
    parcel: Parcel,
    places: Option<Arc<Inner>>,
) -> Result<Live, UpstreamError> {
    let _place = match &places {
        Some(roster) => roster.moves.acquire().await.ok(),
        None => None,
    };
    let Leg {
        mut sent,
        upstream,
        name,
        digest,
        decision,
    } = leg;
    let request = Arc::clone(&parcel.request);
    match first_events(upstream.as_ref(), request).await {
        Ok((held, events)) => {
            sent.first_content(&parcel.seen, parcel.request.whole);
            let id = &parcel.request.shown_id;
            parcel.roster.decisions.serves(id, &decision);
            if let (Some(purse), Some(pick)) = (&parcel.request.purse, &decision.pick) {
                // A hedge is paid where it was won. Where there is no room for that it stays where it was: in any case
                // once, and the other's work is its operator's.
                purse.move_to(&pick.site);
                purse.served(&pick.node, digest.as_ref());
            }
            Ok(Live {
                sent,
                name,
                digest,
                held,
                events,
            })
        }
        Err(error) => {
            sent.fail(&error);
            Err(error)
        }
    }
}

/// The events up to the first content, and the stream of the others.
async fn first_events(
    upstream: &dyn Upstream,
    request: Arc<GenerateRequest>,
) -> Result<(VecDeque<Event>, EventStream), UpstreamError> {
    let mut events = upstream.generate(request).await?;
    let mut held = VecDeque::new();
    loop {
        let event = events.next().await;
        let event = event.ok_or_else(|| UpstreamError::from(UpstreamErrorKind::Unreachable))??;
        let content = is_content(&event);
        held.push_back(event);
        if content || held.len() >= EVENTS_HELD_MAX {
            return Ok((held, events));
        }
    }
}

/// Whether an event is something that a client sees.
fn is_content(event: &Event) -> bool {
    match event {
        Event::Delta { text, logprobs, .. } => !text.is_empty() || !logprobs.is_empty(),
        Event::ToolSyntax(_) => false,
        Event::ToolCall { .. } | Event::Finished { .. } | Event::Done(_) => true,
    }
}

/// Whether the one who served is gone, rather than unwilling.
pub(super) fn died(error: &UpstreamError) -> bool {
    matches!(
        error.kind,
        UpstreamErrorKind::Unreachable | UpstreamErrorKind::ShuttingDown
    )
}

/// Bytes of a prompt as its tokens count; a token that came as an id counts as four.
fn prompt_bytes(prompt: &Prompt) -> u64 {
    let bytes = match prompt {
        Prompt::Chat(chat) => chat.written().map(<[u8]>::len).sum::<usize>(),
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(ids) => 4 * ids.len(),
    };
    bytes as u64
}

fn blocks(key: HashKey, pool: u64, prompt: &Prompt) -> Vec<u64> {
    match prompt {
        Prompt::Chat(chat) => key.blocks(pool, chat.written()),
        Prompt::Text(text) => key.blocks(pool, [text.as_bytes()]),
        Prompt::Tokens(ids) => {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            key.blocks(pool, [bytes.as_slice()])
        }
    }
}
