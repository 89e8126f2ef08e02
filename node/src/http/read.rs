//! Reads at a stated freshness (I1, I5): which view a request is answered from.
//!
//! Ground state is read linearizably unless asked otherwise. What applications act on (snapshots,
//! evaluations) is read *bounded* by default, because it must go on while the cluster has no
//! leader: from this node alone, if its proof of freshness is within the staleness bound.
//!
//! What must hold: the proof is read before the view it is to cover; a node never answers below
//! the version asked for; a node that may be behind does not deny the existence of an environment
//! it may not have seen yet, unless a stale answer was asked for.

use std::time::Duration;

use pennon_evaluator::{Environment, EnvironmentKey, Freshness, Version, judge};
use pennon_raft_store::command::ObjectId;
use pennon_raft_store::machine::View;
use tokio::time::Instant;

use super::answer::{Decided, millis_up};
use super::call::Call;
use super::problem::Problem;
use crate::broken::Broken;
use crate::core::Core;

/// What proving a read takes is not waited for freshness: also who waits for nothing gets so long.
const ROUND_MIN: Duration = Duration::from_millis(500);

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consistency {
    /// It holds everything committed before the request.
    Linearizable,
    /// It lags behind by no more than the staleness bound.
    Bounded,
    /// Whatever this node has.
    Stale,
}

/// What a request is answered from.
#[derive(Clone)]
pub(crate) struct Read {
    pub(crate) view: View,
    pub(crate) decided: Decided,
}

/// What a request of an environment is answered from.
#[derive(Clone)]
pub(crate) struct EnvironmentRead {
    pub(crate) view: View,
    pub(crate) decided: Decided,
    pub(crate) key: EnvironmentKey,
    pub(crate) environment: Environment,
}

impl Read {
    fn new(
        core: &Core,
        view: View,
        fresh_at: Option<Duration>,
        bound: Duration,
        how: Consistency,
    ) -> Result<Self, Problem> {
        let decided = Decided {
            version: view.version(),
            fresh_at,
        };
        if how == Consistency::Bounded {
            let age = fresh_at.map(|at| core.now().saturating_sub(at));
            if age.is_none_or(|age| judge(age, bound) == Freshness::Stale) {
                let problem = Problem::past_bound(millis_up(age), bound.as_millis() as u64); // I5
                return Err(problem.decided(decided));
            }
        }
        Ok(Self { view, decided })
    }
}

/// Reads what is not in an environment; its staleness bound is the default one.
pub(crate) async fn global(call: &Call, default: Consistency) -> Result<Read, Problem> {
    global_at(call, default, None).await
}

/// The same at `since` or later.
pub(crate) async fn global_at(
    call: &Call,
    default: Consistency,
    since: Option<Version>,
) -> Result<Read, Problem> {
    let (how, min_version) = (
        consistency(call, default),
        call.min_version()?.max(since.unwrap_or(Version::ZERO)),
    );
    let core = call.core()?;
    let (view, fresh_at) = fetch(core, how, min_version, call.wait()?).await?;
    Read::new(
        core,
        view,
        fresh_at,
        Environment::default().staleness_bound(),
        how,
    )
}

/// Reads from an environment, at `since` or later.
pub(crate) async fn environment(
    call: &Call,
    default: Consistency,
    since: Option<Version>,
) -> Result<EnvironmentRead, Problem> {
    let key = call.environment()?;
    let (how, min_version) = (
        consistency(call, default),
        call.min_version()?.max(since.unwrap_or(Version::ZERO)),
    );
    let deadline = Instant::now() + call.wait()?;
    let left = || deadline.saturating_duration_since(Instant::now());
    let core = call.core()?;
    let (mut view, mut fresh_at) = fetch(core, how, min_version, left()).await?;
    if how == Consistency::Bounded && Core::environment(&view, &key).is_none() {
        (view, fresh_at) = fetch(core, Consistency::Linearizable, min_version, left()).await?;
    }
    let Some(environment) = Core::environment(&view, &key) else {
        let decided = Decided {
            version: view.version(),
            fresh_at,
        };
        return Err(Problem::missing(&ObjectId::environment_object(key.shared())).decided(decided));
    };
    let Read { view, decided } =
        Read::new(core, view, fresh_at, environment.staleness_bound(), how)?;
    Ok(EnvironmentRead {
        view,
        decided,
        key,
        environment,
    })
}

/// Makes sure that there is an application. A node that may be behind does not deny it.
pub(crate) async fn application(core: &Core, key: &str, within: Duration) -> Result<(), Problem> {
    let object = ObjectId::application(key);
    if core.view().object(&object).is_some() {
        return Ok(());
    }
    let began = core.now();
    let view = core.confirmed(within).await;
    let view = view.map_err(|why| Problem::read(&why))?;
    let decided = Decided {
        version: view.version(),
        fresh_at: Some(began),
    };
    match view.object(&object) {
        Some(_) => Ok(()),
        None => Err(Problem::missing(&object).decided(decided)),
    }
}

fn consistency(call: &Call, default: Consistency) -> Consistency {
    match call.param("consistency") {
        Some("linearizable") => Consistency::Linearizable,
        Some("bounded") => Consistency::Bounded,
        Some("stale") => Consistency::Stale,
        _ => default,
    }
}

/// A view and the moment before which everything committed is in it.
async fn fetch(
    core: &Core,
    how: Consistency,
    min_version: Version,
    wait: Duration,
) -> Result<(View, Option<Duration>), Problem> {
    let deadline = Instant::now() + wait;
    let began = core.now();
    let left = || deadline.saturating_duration_since(Instant::now());
    let failed = |why| Problem::read(&why);
    match how {
        Consistency::Linearizable => {
            let within = left().max(ROUND_MIN);
            let view = match Broken::LocalReads.is(core.broken) {
                true => core.view(),
                false => core.confirmed(within).await.map_err(failed)?, // I1
            };
            let view = match view.version() >= min_version {
                true => view,
                false => core.at_least(min_version, left()).await.map_err(failed)?,
            };
            Ok((view, Some(began))) // I5
        }
        Consistency::Bounded | Consistency::Stale => {
            if how == Consistency::Bounded && core.fresh_at().is_none() {
                core.proved(left()).await.map_err(|_| Problem::unproved())?;
            }
            core.at_least(min_version, left()).await.map_err(failed)?;
            // The proof before the view, so that it covers it. (I5)
            let fresh_at = core.fresh_at();
            Ok((core.view(), fresh_at))
        }
    }
}
