//! The commands `mock` and `proxy`: servers that run until they are told to end, and break as their faults say.

use std::io::{Write as _, stdout};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::watch;

use super::drive::{runtime, stop_on_signal};
use super::end;
use crate::cli::{MockArgs, ProxyArgs};
use crate::clock::Clock;
use crate::faults::MockOptions;
use crate::faults::bed::Bed;
use crate::faults::mock::Cost;
use crate::faults::plan::{FaultPlan, MockPlan, Planned, ProxyPlan};
use crate::os;
use crate::problems::quote;
use crate::report::exit;
use crate::scenario::read_fault;

/// Runs `mock`.
pub fn mock(args: &MockArgs) -> ExitCode {
    end(mocks(args).and_then(|plan| serve(&plan, args.seed)))
}

/// Runs `proxy`.
pub fn proxy(args: &ProxyArgs) -> ExitCode {
    end(proxied(args).and_then(|plan| serve(&plan, args.seed)))
}

fn mocks(args: &MockArgs) -> anyhow::Result<FaultPlan> {
    let cost = Cost {
        slots: args.slots,
        queue: args.queue,
        prefill: args.prefill,
        prefill_token: args.prefill_token,
        step: args.step,
        step_request: args.step_request.unwrap_or_default(),
    };
    let mut mocks = Vec::new();
    for number in 0..args.sites {
        let options = MockOptions {
            model: args.model.as_str().into(),
            cost,
            seed: args.seed.wrapping_add(number.into()),
        };
        let name = format!("mock-{}", number + 1).into();
        let listen = port_after(args.listen, number)?;
        mocks.push(MockPlan {
            name,
            listen,
            options,
        });
    }
    let names: Vec<Arc<str>> = mocks.iter().map(|mock| mock.name.clone()).collect();
    let faults = faults(&args.fault, &names)?;
    Ok(FaultPlan {
        mocks,
        faults,
        ..FaultPlan::default()
    })
}

fn proxied(args: &ProxyArgs) -> anyhow::Result<FaultPlan> {
    let name: Arc<str> = "proxy".into();
    let proxy = ProxyPlan {
        name: name.clone(),
        listen: args.listen,
        to: args.to.clone(),
    };
    Ok(FaultPlan {
        proxies: vec![proxy],
        faults: faults(&args.fault, &[name])?,
        ..FaultPlan::default()
    })
}

fn port_after(first: SocketAddr, number: u16) -> anyhow::Result<SocketAddr> {
    let mut listen = first;
    if first.port() > 0 {
        let port = first
            .port()
            .checked_add(number)
            .context("not so many ports after that of --listen")?;
        listen.set_port(port);
    }
    Ok(listen)
}

fn faults(texts: &[String], names: &[Arc<str>]) -> anyhow::Result<Vec<Planned>> {
    let mut faults = Vec::new();
    for text in texts {
        let fault = read_fault(text)?;
        if let Some(target) = fault
            .target
            .as_ref()
            .filter(|target| !names.contains(target))
        {
            anyhow::bail!(
                "--fault: there is no {}, but {}",
                quote(target),
                names.join(", ")
            );
        }
        faults.push(fault);
    }
    Ok(faults)
}

/// Runs servers until a signal; says where they are in one line of JSON.
fn serve(plan: &FaultPlan, seed: u64) -> anyhow::Result<u8> {
    os::raise_file_limit();
    let clock = Clock::start();
    let bed = Bed::start(plan, clock, seed)?;
    let targets = bed.targets().iter().map(|target| {
        let url = format!("http://{}", target.address);
        json!({"name": &*target.name, "url": url})
    });
    let line = json!({"targets": targets.collect::<Vec<_>>()});
    writeln!(stdout(), "{line}")?;
    bed.begin(clock.now());
    let (stop, mut stopped) = watch::channel(false);
    runtime(1)?.block_on(async {
        tokio::select! {
            never = stop_on_signal(&stop) => match never {},
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    });
    Ok(exit::GOOD)
}
