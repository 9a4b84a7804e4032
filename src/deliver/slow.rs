//! The bulkhead: jobs whose requests take long may fill half of a worker's prefetch, and no more.
//!
//! A job that is not settled takes up one message of the prefetch. If all of them waited for receivers that do not
//! answer, the worker would consume nothing more. Which request will take long is not known beforehand. So a job
//! *counts* while one of its requests has been in flight for a second, or goes to a lane that has not yet answered in
//! time. At most half of the prefetch may count. Half of that half is reserved for the first request to a lane;
//! otherwise a few silent receivers would leave no way to learn that another one answers. A task that would make one
//! job too many count does not start: it waits in its lane, and is parked like anything that waits too long. Lanes that
//! answer in time keep starting.
//!
//! A bundle is one message, so it counts once, however many of its deliveries are slow; once it counts, its other
//! deliveries may start. The half can be exceeded only by requests in flight to receivers that answered in time until
//! they fell silent.

use std::collections::HashMap;

/// Numbers a worker's jobs.
pub(super) type JobNumber = u64;

/// The jobs that count.
#[derive(Debug)]
pub(super) struct Slow {
    /// How many requests make each job count.
    jobs: HashMap<JobNumber, usize>,
    jobs_max: usize,
}

impl Slow {
    /// Nothing counts yet; up to half of `prefetch` may.
    pub(super) fn new(prefetch: usize) -> Self {
        Self { jobs: HashMap::new(), jobs_max: (prefetch / 2).max(1) }
    }

    /// Whether one more job may count, because of the `first` request of its lane or of a further one.
    pub(super) fn has_room(&self, first: bool) -> bool {
        let max = if first { self.jobs_max } else { (self.jobs_max / 2).max(1) };
        self.jobs.len() < max
    }

    /// Whether this job may count: there is room, or it counts already.
    pub(super) fn has_room_for(&self, job: JobNumber, first: bool) -> bool {
        self.has_room(first) || self.jobs.contains_key(&job)
    }

    /// A request makes the job count.
    pub(super) fn add(&mut self, job: JobNumber) {
        *self.jobs.entry(job).or_default() += 1;
    }

    /// That request has ended.
    pub(super) fn remove(&mut self, job: JobNumber) {
        if let Some(requests) = self.jobs.get_mut(&job) {
            *requests -= 1;
            if *requests == 0 {
                self.jobs.remove(&job);
            }
        }
    }

    /// How many count.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.jobs.len()
    }
}
