//! Lists that come in pages: one page after the other, or so many items at once.
//!
//! What must hold: no item is skipped and none comes twice, also when a request failed or was given up
//! half-way; a later page is never older than one before it; a node that would have us turn in a
//! circle is an error.
//!
//! Left out: what is listed. A [`Page`] says what its items are and where the next one begins.

use std::fmt;
use std::marker::PhantomData;

use http::Method;
use pennon_evaluator::Version;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Admin, Collection, List, Object};
use crate::error::Error;
use crate::http1::segment;

/// One page of a list: [`List`], [`History`](super::History), [`Audit`](super::Audit) or
/// [`EvaluationList`](super::EvaluationList).
pub trait Page: DeserializeOwned + sealed::Sealed {
    /// What it lists.
    type Item;

    /// Returns the version at which the page was read.
    fn version(&self) -> Version;

    /// Returns where the next page begins, if there is one; for [`Pages::resume`].
    fn next(&self) -> Option<&str>;

    /// Returns what is on the page.
    fn into_items(self) -> Vec<Self::Item>;
}

pub(super) mod sealed {
    /// Only this crate has pages.
    pub trait Sealed {}
}

/// A list that is read page by page. Nothing is sent before the first page is asked for.
///
/// Each page is read at its own version, never at an earlier one than the page before it. What is
/// written meanwhile may show on later pages of a list of objects; histories and the audit list go
/// back in time, so it does not show there.
///
/// ```no_run
/// # async fn example(admin: pennon_client::admin::Admin) -> Result<(), pennon_client::Error> {
/// use pennon_client::admin::Collection;
/// let mut flags = admin.pages(&Collection::Flags);
/// while let Some(page) = flags.next().await? {
///     for flag in &page.items {
///         println!("{} at version {}", flag.key, flag.version);
///     }
/// }
/// // Or so many at once, from a place that was kept; the rest with the next call.
/// let mut rest = admin.pages(&Collection::Flags).resume("checkout.new-ui");
/// let some = rest.items(500).await?;
/// println!("{} flags, {}", some.len(), if rest.is_done() { "all" } else { "and there are more" });
///
/// // Refused: a page has 10,000 items at most.
/// let refused = admin.pages(&Collection::Flags).page_len(20_000).next().await;
/// assert!(refused.is_err_and(|error| error.is_invalid()));
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is sent before a page is asked for"]
pub struct Pages<P> {
    admin: Admin,
    question: Question,
    page_len: Option<u32>,
    place: Place,
    page: PhantomData<fn() -> P>,
}

/// What is asked for every page.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    /// The query without its question mark: names and encoded values.
    pub(super) query: Vec<String>,
    /// The parameter that takes the `next` of a page.
    pub(super) cursor: &'static str,
    pub(super) body: Option<Value>,
}

/// How far a list was read.
#[derive(Clone, Debug)]
struct Place {
    next: Next,
    /// The version of the page before.
    version: Option<Version>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    First,
    At(String),
    Done,
}

impl<P: Page> Pages<P> {
    pub(super) fn new(admin: Admin, question: Question) -> Pages<P> {
        let place = Place {
            next: Next::First,
            version: None,
        };
        Pages {
            admin,
            question,
            page_len: None,
            place,
            page: PhantomData,
        }
    }

    /// Sets how many items a page has at most, 1 to 10,000; 1,000 unless set. A page may be shorter,
    /// even empty, although others follow; one of the audit list may be longer by the rest of a
    /// change set.
    pub fn page_len(mut self, page_len: u32) -> Pages<P> {
        self.page_len = Some(page_len);
        self
    }

    /// Begins behind a place: the `next` of a page, or [`Pages::place`]. For lists by key that is a
    /// key, which need not exist; for histories and the audit list it is a version, and what comes
    /// is older.
    pub fn resume(mut self, place: impl fmt::Display) -> Pages<P> {
        self.place.next = Next::At(place.to_string());
        self
    }

    /// Returns where the next page begins; nothing before the first page and after the last.
    pub fn place(&self) -> Option<&str> {
        match &self.place.next {
            Next::At(place) => Some(place),
            Next::First | Next::Done => None,
        }
    }

    /// Whether the last page was read.
    pub fn is_done(&self) -> bool {
        self.place.next == Next::Done
    }

    /// Reads the next page; `None` after the last one. After an error the same page comes again.
    ///
    /// # Errors
    /// As [`Admin::request`], and when a node says that the next page is the one just read.
    pub async fn next(&mut self) -> Result<Option<P>, Error> {
        let Some((page, place)) = self.read(&self.place).await? else {
            return Ok(None);
        };
        self.place = place;
        Ok(Some(page))
    }

    /// Reads pages until there are `enough` items or no more. The last page is kept whole, so there
    /// may be more items than that. After an error the same items come again.
    ///
    /// # Errors
    /// As [`Pages::next`].
    pub async fn items(&mut self, enough: usize) -> Result<Vec<P::Item>, Error> {
        let (mut items, mut reached) = (Vec::new(), self.place.clone());
        while items.len() < enough {
            let Some((page, place)) = self.read(&reached).await? else {
                break;
            };
            items.extend(page.into_items());
            reached = place;
        }
        self.place = reached;
        Ok(items)
    }

    /// Reads the page at a place, and says where the one after it is.
    async fn read(&self, place: &Place) -> Result<Option<(P, Place)>, Error> {
        let Some(path) = self.path(place) else {
            return Ok(None);
        };
        let question = &self.question;
        let method = question.method.clone();
        let page: P = self
            .admin
            .ask(method, &path, question.body.as_ref())
            .await?;
        let next = match page.next() {
            None => Next::Done,
            Some(next) => Next::At(next.to_owned()),
        };
        if next != Next::Done && next == place.next {
            let circle = "the answer says that the next page is the one just read";
            return Err(Error::protocol(circle));
        }
        let version = Some(page.version());
        Ok(Some((page, Place { next, version })))
    }

    fn path(&self, place: &Place) -> Option<String> {
        let mut query = self.question.query.clone();
        match &place.next {
            Next::First => {}
            Next::At(next) => query.push(format!("{}={}", self.question.cursor, segment(next))),
            Next::Done => return None,
        }
        query.extend(self.page_len.map(|len| format!("limit={len}")));
        query.extend(place.version.map(|it| format!("min_version={it}")));
        let (path, query) = (&self.question.path, query.join("&"));
        Some(match query.is_empty() {
            true => path.clone(),
            false => format!("{path}?{query}"),
        })
    }
}

impl<P> fmt::Debug for Pages<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("question", &self.question)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Lists objects by key, page after page.
    pub fn pages(&self, collection: &Collection) -> Pages<List> {
        let question = Question {
            method: Method::GET,
            path: collection.path(),
            query: Vec::new(),
            cursor: "after",
            body: None,
        };
        Pages::new(self.clone(), question)
    }
}

impl sealed::Sealed for List {}

impl Page for List {
    type Item = Object;

    fn version(&self) -> Version {
        self.version
    }

    fn next(&self) -> Option<&str> {
        self.next.as_deref()
    }

    fn into_items(self) -> Vec<Object> {
        self.items
    }
}
