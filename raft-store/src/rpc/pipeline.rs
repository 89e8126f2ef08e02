//! Appends to one node, with more than one under way.
//!
//! openraft tells a node of a new commit index by an append without entries of its own. Sent one after the
//! other, the next entry waits until that news was answered, which is most of a round trip for nothing: news
//! asks the node for no more than what it has acknowledged before. So entries do not wait for news. What
//! comes after entries waits for them, since messages may overtake each other, and an append that arrives
//! before the one it follows is refused.

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, FuturesOrdered, Stream, StreamExt, unfold};
use openraft::errors::{NetworkError, RPCError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
};

use super::CallError;
use crate::types::{RaftLogId, TypeConfig};

type Request = AppendEntriesRequest<TypeConfig>;
type Reply = Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>>;
type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// What a node said to each append, in the order of the appends; it ends with the first that was not
/// taken whole.
pub(super) type Answers<'a> = BoxStream<'a, Answer>;

/// Appends under way at once, at most.
const UNDER_WAY_MAX: usize = 4;

/// Sends what comes and answers in order.
pub(super) fn answers<'a>(
    requests: impl Stream<Item = Request> + Send + Unpin + 'a,
    send: impl Fn(Request) -> BoxFuture<'a, Reply> + Send + 'a,
) -> Answers<'a> {
    let pipeline = Pipeline {
        send,
        requests: Some(requests),
        under_way: FuturesOrdered::new(),
        ends_with_entries: false,
    };
    let next = async |pipeline: Option<Pipeline<'a, _, _>>| {
        let mut pipeline = pipeline?;
        let (answer, is_whole) = pipeline.next().await?;
        Some((answer, is_whole.then_some(pipeline)))
    };
    unfold(Some(pipeline), next).boxed()
}

/// What was said, and whether all that was asked for was done.
type Said = (Answer, bool);

struct Pipeline<'a, S, F> {
    send: F,
    /// `None` once there are no more.
    requests: Option<S>,
    /// Oldest first.
    under_way: FuturesOrdered<BoxFuture<'a, Said>>,
    /// The last one under way has entries.
    ends_with_entries: bool,
}

impl<'a, S, F> Pipeline<'a, S, F>
where
    S: Stream<Item = Request> + Unpin,
    F: Fn(Request) -> BoxFuture<'a, Reply>,
{
    /// Sends what may be sent until the oldest under way is answered; `None` at the end.
    async fn next(&mut self) -> Option<Said> {
        loop {
            let may_send = !self.ends_with_entries && self.under_way.len() < UNDER_WAY_MAX;
            let Some(requests) = self.requests.as_mut().filter(|_| may_send) else {
                let said = self.under_way.next().await;
                self.ends_with_entries &= !self.under_way.is_empty();
                return said;
            };
            tokio::select! {
                biased;
                Some(said) = self.under_way.next() => return Some(said),
                request = requests.next() => match request {
                    Some(request) => self.put_under_way(request),
                    None => self.requests = None,
                }
            }
        }
    }

    fn put_under_way(&mut self, request: Request) {
        self.ends_with_entries = !request.entries.is_empty();
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let reply = (self.send)(request);
        self.under_way.push_back(Box::pin(async move {
            match reply.await {
                Ok(AppendEntriesResponse::Success) => (Ok(Ok(last)), true),
                Ok(AppendEntriesResponse::PartialSuccess(part)) => (Ok(Ok(part)), part == last),
                Ok(AppendEntriesResponse::HigherVote(vote)) => {
                    (Ok(Err(StreamAppendError::HigherVote(vote))), false)
                }
                Ok(AppendEntriesResponse::Conflict) => (conflict(prev), false),
                Err(why) => (Err(why), false),
            }
        }));
    }
}

/// A node without what an append follows; it cannot lack what is before the log's beginning.
fn conflict(prev: Option<RaftLogId>) -> Answer {
    match prev {
        Some(prev) => Ok(Err(StreamAppendError::Conflict(prev))),
        None => {
            let text = "it misses what comes before the first entry".to_owned();
            Err(RPCError::Network(NetworkError::new(&CallError::Refused(
                text,
            ))))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use futures_util::{FutureExt, stream};
    use openraft::EntryPayload;
    use tokio::sync::oneshot;

    use super::*;
    use crate::log::LogId;
    use crate::types::{RaftEntry, RaftVote, raft_log_id};

    fn id(index: u64) -> RaftLogId {
        raft_log_id(LogId { term: 1, index })
    }

    fn news(prev: u64) -> Request {
        with_entries(prev, prev)
    }

    fn with_entries(prev: u64, last: u64) -> Request {
        let entry = |index| RaftEntry {
            log_id: id(index),
            payload: EntryPayload::Blank,
        };
        AppendEntriesRequest {
            vote: RaftVote::new_committed(1, 1),
            prev_log_id: (prev > 0).then(|| id(prev)),
            entries: (prev + 1..=last).map(entry).collect(),
            leader_commit: None,
        }
    }

    /// A node that answers what and when the test says.
    #[derive(Clone, Default)]
    struct Node(Arc<Mutex<Waiting>>);

    type Waiting = VecDeque<(Request, oneshot::Sender<Reply>)>;

    impl Node {
        fn take(&self) -> impl Fn(Request) -> BoxFuture<'static, Reply> + Send + 'static {
            let node = self.clone();
            move |request| {
                let (answer, answered) = oneshot::channel();
                node.0.lock().unwrap().push_back((request, answer));
                async { answered.await.unwrap() }.boxed()
            }
        }

        /// The last index of each message that waits for its answer.
        fn waiting(&self) -> Vec<u64> {
            let waiting = self.0.lock().unwrap();
            let last = |request: &Request| {
                let entry = request.entries.last().map(|entry| entry.log_id.index);
                entry
                    .or(request.prev_log_id.map(|id| id.index))
                    .unwrap_or(0)
            };
            waiting.iter().map(|(request, _)| last(request)).collect()
        }

        fn answer(&self, at: usize, reply: AppendEntriesResponse<TypeConfig>) {
            let (_, answer) = self.0.lock().unwrap().remove(at).unwrap();
            answer.send(Ok(reply)).unwrap();
        }
    }

    const OK: AppendEntriesResponse<TypeConfig> = AppendEntriesResponse::Success;

    fn pipeline(node: &Node, requests: Vec<Request>) -> Answers<'static> {
        answers(stream::iter(requests), node.take())
    }

    /// The next answer as an index, if there is one already.
    fn next(answers: &mut Answers<'_>) -> Option<u64> {
        let answer = answers.next().now_or_never()?;
        Some(
            answer
                .expect("it goes on")
                .unwrap()
                .unwrap()
                .map_or(0, |id| id.index),
        )
    }

    #[test]
    fn entries_do_not_wait_for_news_but_all_waits_for_entries() {
        let node = Node::default();
        let requests = vec![news(1), with_entries(1, 3), news(3), with_entries(3, 4)];
        let mut answers = pipeline(&node, requests);
        assert_eq!(next(&mut answers), None);
        assert_eq!(
            node.waiting(),
            [1, 3],
            "the second news follows the entries"
        );
        node.answer(0, OK);
        assert_eq!(next(&mut answers), Some(1));
        assert_eq!(next(&mut answers), None);
        assert_eq!(node.waiting(), [3]);
        node.answer(0, OK);
        assert_eq!(next(&mut answers), Some(3));
        assert_eq!(next(&mut answers), None);
        assert_eq!(node.waiting(), [3, 4]);
        node.answer(1, OK);
        assert_eq!(next(&mut answers), None, "answers keep their order");
        node.answer(0, OK);
        assert_eq!(next(&mut answers), Some(3));
        assert_eq!(next(&mut answers), Some(4));
        assert!(answers.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn news_under_way_is_bounded() {
        let node = Node::default();
        let mut answers = pipeline(&node, vec![news(1); 2 * UNDER_WAY_MAX]);
        assert_eq!(next(&mut answers), None);
        assert_eq!(node.waiting().len(), UNDER_WAY_MAX);
    }

    #[test]
    fn what_is_not_taken_whole_ends_it() {
        for (reply, whole) in [
            (AppendEntriesResponse::PartialSuccess(Some(id(2))), false),
            (AppendEntriesResponse::PartialSuccess(Some(id(3))), true),
            (AppendEntriesResponse::Conflict, false),
            (
                AppendEntriesResponse::HigherVote(RaftVote::new(2, 2)),
                false,
            ),
        ] {
            let node = Node::default();
            let mut answers = pipeline(&node, vec![with_entries(1, 3), news(3)]);
            assert_eq!(next(&mut answers), None);
            node.answer(0, reply.clone());
            assert!(answers.next().now_or_never().flatten().is_some());
            match whole {
                true => assert_eq!(next(&mut answers), None, "{reply:?}"),
                false => assert!(
                    answers.next().now_or_never().unwrap().is_none(),
                    "{reply:?}"
                ),
            }
        }
    }

    #[test]
    fn a_node_that_lacks_what_precedes_everything_is_refused() {
        let node = Node::default();
        let mut answers = pipeline(&node, vec![with_entries(0, 1)]);
        assert_eq!(next(&mut answers), None);
        node.answer(0, AppendEntriesResponse::Conflict);
        assert!(answers.next().now_or_never().flatten().unwrap().is_err());
    }
}
