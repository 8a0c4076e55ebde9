//! Requests by route, method and status, and how long they took. Clients cannot add a route, a method or a status.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use actix_web::http::{Method, StatusCode};

use crate::metrics::{Counter, Histogram, MICROSECONDS};

/// The methods that are counted on their own.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", OTHER];

/// The statuses that are counted on their own; any other counts as the last one.
const STATUSES: [u16; 24] = [
    200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 406, 408, 409, 410, 412, 413, 415, 421, 422, 429, 500, 503, 507,
    0,
];

const OTHER: &str = "other";

/// The requests of all routes.
#[derive(Debug, Default)]
pub(crate) struct RequestMetrics(Mutex<BTreeMap<String, Arc<RouteMetrics>>>);

/// The requests of one route.
#[derive(Debug)]
pub(crate) struct RouteMetrics {
    /// By method and status.
    counts: [[Counter; STATUSES.len()]; METHODS.len()],
    /// The time until the head of the response, in microseconds.
    pub(crate) duration: Histogram,
}

impl RequestMetrics {
    /// The metrics of a route, for each thread that serves it.
    pub(super) fn route(&self, path: &str) -> Arc<RouteMetrics> {
        let mut routes = self.0.lock().expect("no thread panics while it holds this lock");
        let route = routes.entry(path.to_owned()).or_insert_with(|| Arc::new(RouteMetrics::new()));
        Arc::clone(route)
    }

    /// All routes with their paths.
    pub(super) fn routes(&self) -> Vec<(String, Arc<RouteMetrics>)> {
        let routes = self.0.lock().expect("no thread panics while it holds this lock");
        routes.iter().map(|(path, route)| (path.clone(), Arc::clone(route))).collect()
    }
}

impl RouteMetrics {
    fn new() -> Self {
        let counts = std::array::from_fn(|_| std::array::from_fn(|_| Counter::default()));
        Self { counts, duration: Histogram::new(MICROSECONDS) }
    }

    /// Counts a request that came at `started`.
    pub(super) fn count(&self, method: &Method, status: StatusCode, started: Instant) {
        let method = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len() - 1);
        let status = STATUSES.iter().position(|known| *known == status.as_u16()).unwrap_or(STATUSES.len() - 1);
        self.counts[method][status].add(1);
        self.duration.observe_time(started.elapsed());
    }

    /// Method, status and number of the requests, without zeros.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
        METHODS.iter().zip(&self.counts).flat_map(|(method, counts)| {
            let counts = STATUSES.iter().zip(counts).filter(|(_, count)| count.get() > 0);
            counts.map(|(status, count)| {
                let status = if *status == 0 { OTHER.to_owned() } else { status.to_string() };
                (*method, status, count.get())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_methods_and_statuses_count_together() {
        let metrics = RequestMetrics::default();
        let brew = Method::from_bytes(b"BREW").unwrap();
        for (method, status) in
            [(&Method::GET, 200), (&Method::GET, 200), (&brew, 405), (&Method::PUT, 418), (&brew, 599)]
        {
            metrics.route("/persons").count(method, StatusCode::from_u16(status).unwrap(), Instant::now());
        }
        let [(path, route)] = &metrics.routes()[..] else { panic!("one route") };
        assert_eq!(path, "/persons");
        let counts: Vec<_> = route.counts().collect();
        let counts: Vec<_> = counts.iter().map(|(method, status, count)| (*method, status.as_str(), *count)).collect();
        assert_eq!(counts, [("GET", "200", 2), ("PUT", "other", 1), ("other", "405", 1), ("other", "other", 1)]);
        assert_eq!(route.duration.ranges().map(|(_, count)| count).sum::<u64>(), 5);
    }
}
