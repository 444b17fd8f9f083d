// SPDX-License-Identifier: GPL-2.0-only

//! One request: its directory `<parent>/fence/<rid>/` and the files in it.
//!
//! Show and store callbacks hold a kernfs active reference, which the removal of the directory
//! drains under the mount's `admin` mutex: they must take no lock but the table's spinlock. See
//! [`mount`](crate::mount).

use crate::{
    linux::{
        glue,
        inet,
        jiffies::{
            jiffies,
            Jiffies, //
        },
        kobject::Kobject,
        kstrtox::kstrtobool,
        list::impl_list_item,
        prelude::*,
        sysfs::{
            Attribute,
            AttributeDirectory, //
        },
        text::Text, //
    },
    mount::Mount,
    request::{
        reason_name,
        Failure,
        RequestState, //
    },
    table::{
        Table,
        TableEntry, //
    }, //
};
use core::{
    fmt::{
        self,
        Write as _, //
    },
    net::{
        IpAddr,
        Ipv4Addr, //
    }, //
};
use kernel::{
    list::{
        AtomicTracker,
        ListLinks,
        TryNewListArc, //
    },
    sync::LockedBy, //
};

/// Whether the mount was fenced.
pub(crate) const FENCED: &CStr = c_str!("fenced");

/// Whether the request failed.
pub(crate) const ERROR: &CStr = c_str!("error");

/// Formats a rid as sysfs and uevents have it, and as its directory is named.
pub(crate) struct Name(pub(crate) u64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A request to fence one mount of the cluster.
#[pin_data]
pub(crate) struct FenceRequest {
    /// The leader's mount.
    pub(crate) mount: Arc<Mount>,
    /// How many requests of the mount were started before this one.
    number: u64,
    /// The identity of the mount to be fenced.
    pub(crate) rid: u64,
    /// The last known address of the mount to be fenced.
    pub(crate) address: IpAddr,
    /// The first reason.
    pub(crate) reason: c_int,
    /// In milliseconds.
    pub(crate) timeout_ms: u32,
    state: LockedBy<RequestState, Table<Self>>,
    /// Present while the request is listed; see the head of `mount`.
    #[pin]
    directory: Mutex<Option<AttributeDirectory<Self>>>,
    /// For the mount's [`Notifier`](crate::notify::Notifier).
    #[pin]
    links: ListLinks,
    #[pin]
    tracker: AtomicTracker,
}

impl_list_item!(FenceRequest, links, tracker);

impl TableEntry for FenceRequest {
    fn state(&self) -> &LockedBy<RequestState, Table<Self>> {
        &self.state
    }

    fn number(&self) -> u64 {
        self.number
    }
}

impl FenceRequest {
    /// A request that is started at `now`, without a directory. May sleep.
    /// Errors: `ENOMEM`.
    pub(crate) fn new(
        mount: &Arc<Mount>,
        number: u64,
        (rid, address, reason): (u64, IpAddr, c_int),
        (now, timeout_ms): (Jiffies, u32),
    ) -> Result<Arc<Self>> {
        let state = RequestState::new(reason, now, timeout_ms);
        Arc::pin_init(
            try_pin_init!(Self {
                mount: mount.clone(),
                number,
                rid,
                address,
                reason,
                timeout_ms,
                state: LockedBy::new(mount.table(), state),
                directory <- new_mutex!(None, "scoutfs_fence_directory"),
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Calls `f` with the state, under the table's spinlock. Never sleeps.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&mut RequestState) -> R) -> R {
        f(self.state.access_mut(&mut self.mount.table().lock()))
    }

    /// The agent wrote to `fenced`. Never sleeps.
    /// Errors: `ESTALE` if the request has failed.
    fn fenced(this: ArcBorrow<'_, Self>) -> Result {
        let mut table = this.mount.table().lock();
        if table.fence(&this, jiffies())? {
            glue::trace_fenced(this.mount.label(), this.rid);
            drop(table);
            Mount::finished(&this.mount, this);
        }
        Ok(())
    }

    /// The agent wrote to `error`. Never sleeps.
    fn failed(this: ArcBorrow<'_, Self>) {
        let mut table = this.mount.table().lock();
        if table.fail(&this, Failure::Indicated) {
            glue::trace_failed(this.mount.label(), this.rid, false);
            drop(table);
            Mount::finished(&this.mount, this);
        }
    }

    /// Creates the directory, complete with its files, below `fence`. May sleep.
    /// Errors: `ENOMEM`; `ENOENT` if `fence` has been removed.
    pub(crate) fn create_directory(this: &Arc<Self>, fence: &Kobject) -> Result {
        let name = CString::try_from_fmt(format_args!("{}", Name(this.rid)))?;
        let directory = AttributeDirectory::create(&name, fence, this.clone(), &ATTRIBUTES)?;
        *this.directory.lock() = Some(directory);
        Ok(())
    }

    /// Removes the directory, and drains the readers and writers of its files. May sleep.
    pub(crate) fn remove_directory(&self) {
        // The mutex is released before the directory is removed.
        let directory = self.directory.lock().take();
        drop(directory);
    }

    /// Wakes the pollers of a file, unless the directory has been removed. May sleep.
    pub(crate) fn notify(&self, file: &CStr) {
        if let Some(directory) = &*self.directory.lock() {
            directory.directory().notify(file);
        }
    }
}

static ATTRIBUTES: [Attribute<FenceRequest>; 7] = [
    Attribute::read_only(c_str!("rid"), |request, page| {
        writeln!(page, "{}", Name(request.rid))
    }),
    Attribute::read_only(c_str!("ipv4_addr"), |request, page| {
        writeln!(page, "{}", ipv4_address(request.address))
    }),
    Attribute::read_only(c_str!("inet_addr"), |request, page| {
        writeln!(page, "{}", inet::Display(request.address))
    }),
    Attribute::read_only(c_str!("reason"), |request, page| {
        writeln!(page, "{}", reason_name(request.reason))
    }),
    Attribute::read_only(c_str!("elapsed_secs"), |request, page| {
        let elapsed_ms = request.with_state(|state| state.elapsed_ms(jiffies()));
        writeln!(page, "{}", elapsed_ms / 1000)
    }),
    Attribute::read_write(
        FENCED,
        |request, page| show_bool(page, request.with_state(|state| state.is_fenced())),
        |request, text| {
            expect_true(text)?;
            FenceRequest::fenced(request)
        },
    ),
    Attribute::read_write(
        ERROR,
        |request, page| show_bool(page, request.with_state(|state| state.has_failed())),
        |request, text| {
            expect_true(text)?;
            FenceRequest::failed(request);
            Ok(())
        },
    ),
];

/// The address if it is an IPv4 one, else `0.0.0.0`.
fn ipv4_address(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn show_bool(page: &mut Text<'_>, value: bool) -> fmt::Result {
    writeln!(page, "{}", u8::from(value))
}

/// Accepts true values only: an answer cannot be taken back.
fn expect_true(text: &CStr) -> Result {
    if kstrtobool(text)? {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

#[cfg(kunit)]
mod tests {
    use super::*;
    use crate::linux::kunit::{
        check_eq,
        suite, //
    };
    use core::net::Ipv6Addr;

    suite!(
        scoutfs_fence_attrs,
        [
            true_values_are_taken,
            everything_else_is_invalid,
            booleans_are_shown_as_digits,
            only_ipv4_addresses_are_shown_as_such,
        ]
    );

    fn true_values_are_taken() {
        for text in [
            c_str!("1"),
            c_str!("1\n"),
            c_str!("y\n"),
            c_str!("Y"),
            c_str!("on\n"),
            c_str!("ON"),
        ] {
            check_eq!(expect_true(text), Ok(()));
        }
    }

    fn everything_else_is_invalid() {
        for text in [
            c_str!(""),
            c_str!("\n"),
            c_str!(" 1"),
            c_str!("0"),
            c_str!("0\n"),
            c_str!("n"),
            c_str!("off\n"),
            c_str!("2"),
            c_str!("-1"),
            c_str!("o"),
            c_str!("fenced"),
            c_str!("\u{ff}1"),
        ] {
            check_eq!(expect_true(text), Err(EINVAL));
        }
    }

    fn booleans_are_shown_as_digits() {
        for (value, text) in [(false, "0\n"), (true, "1\n")] {
            let mut buffer = [0; 8];
            let mut page = Text::new(&mut buffer);
            check_eq!(show_bool(&mut page, value), Ok(()));
            check_eq!(page.written(), text.as_bytes());
        }
    }

    fn only_ipv4_addresses_are_shown_as_such() {
        let address = Ipv4Addr::new(10, 0, 0, 7);
        check_eq!(ipv4_address(address.into()), address);
        let address = Ipv6Addr::LOCALHOST;
        check_eq!(ipv4_address(address.into()), Ipv4Addr::UNSPECIFIED);
    }
}
