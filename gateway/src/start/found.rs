//! Instances that discovery finds, each a candidate of its own for as long as it is listed.
//!
//! So each has its own health, figures and retries, and a stream can go on from one to the next. One that is no longer
//! listed gets no new request; what runs on it goes on to its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hansa_config::schema;

use super::{Place, Starter, UpstreamFailed, failed};
use crate::route::facts::CandidateId;
use crate::upstream::discover::Lists;
use crate::upstream::group::Group;
use crate::upstream::link::LinkTasks;
use crate::upstream::roster::Roster;

/// The instances of one node or site.
pub(super) struct Found {
    place: Place,
    config: schema::Upstream,
    peer: schema::Peer,
    starter: Starter,
    roster: Roster,
    tasks: LinkTasks,
    host: (String, u16),
    here: BTreeMap<SocketAddr, Member>,
}

/// One instance.
struct Member {
    /// Its number among those of its node or site.
    slot: usize,
    group: Group,
    candidates: Vec<CandidateId>,
}

impl Found {
    /// Nobody yet of what `config` says, to be added to `roster`.
    ///
    /// # Errors
    /// [`UpstreamFailed`] names what every instance would lack.
    pub(super) fn new(
        starter: &Starter,
        (place, config): (Place, &schema::Upstream),
        peer: &schema::Peer,
        roster: &Roster,
        tasks: &LinkTasks,
    ) -> Result<Self, UpstreamFailed> {
        let any = Group::new(config, peer, starter.me(), starter.clock(), tasks);
        let any = any.map_err(failed(config))?;
        roster.grows();
        Ok(Self {
            place,
            config: config.clone(),
            peer: peer.clone(),
            starter: starter.clone(),
            roster: roster.clone(),
            tasks: tasks.clone(),
            host: any.host(),
            here: BTreeMap::new(),
        })
    }

    fn member(&self, address: SocketAddr) -> Result<Member, UpstreamFailed> {
        let taken: Vec<usize> = self.here.values().map(|member| member.slot).collect();
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
        let config = schema::Upstream {
            name: format!("{}/{slot}", self.config.name),
            ..self.config.clone()
        };
        let (me, clock) = (self.starter.me(), self.starter.clock());
        let group = Group::new(&config, &self.peer, me, clock, &self.tasks);
        let group = group.map_err(failed(&config))?;
        group.set(&[Some(address)]);
        let enlisted = self
            .starter
            .enlist((self.place, &config), &group, &self.roster);
        let candidates = enlisted.inspect_err(|_| group.set(&[]))?;
        Ok(Member {
            slot,
            group,
            candidates,
        })
    }

    fn leave(&self, gone: BTreeMap<SocketAddr, Member>) {
        for (address, member) in gone {
            tracing::info!(upstream = self.name(), %address, "an instance is no longer listed");
            for id in member.candidates {
                self.roster.remove(id);
            }
            member.group.set(&[]);
        }
    }
}

impl Lists for Found {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn host(&self) -> (String, u16) {
        self.host.clone()
    }

    fn list(&mut self, found: &[SocketAddr]) {
        let here = std::mem::take(&mut self.here);
        let (stay, gone) = here
            .into_iter()
            .partition(|(address, _)| found.contains(address));
        self.here = stay;
        self.leave(gone);
        for address in found {
            if self.here.contains_key(address) {
                continue;
            }
            match self.member(*address) {
                Ok(member) => {
                    let slot = member.slot;
                    tracing::info!(upstream = self.name(), %address, slot, "an instance is listed");
                    self.here.insert(*address, member);
                }
                Err(error) => {
                    tracing::error!(upstream = self.name(), %address, %error, "an instance cannot be used");
                }
            }
        }
    }
}
