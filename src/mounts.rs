// SPDX-License-Identifier: GPL-2.0-only

//! From a superblock to its mount.
//!
//! The spinlock `registry` protects the map, and is only held for lookups and updates. A caller
//! takes a reference to its mount and releases the lock, so `destroy` may run concurrently.
//!
//! While a mount is being set up or destroyed, which sleeps, its entry has no mount and keeps the
//! superblock and the [`Place`] reserved. So setup and destroy of one mount never wait for
//! those of another. `setup` never waits at all, and fails with `EBUSY` until a previous `destroy`
//! of the superblock or place has returned: that `destroy` may be waiting for uevents, and a mount
//! must not wait for these. A concurrent `setup` or `destroy` of the same superblock holds up
//! `destroy`, which returns only when nothing is left of the mount.

use crate::{
    linux::{
        delayed_work::Queue,
        glue,
        kobject::{
            Directory,
            Kobject,
            Kset, //
        },
        memalloc::memalloc_nofs,
        prelude::*,
        set_once::SetOnce,
        super_block::{
            Device,
            SuperBlock, //
        }, //
    },
    mount::Mount, //
};
use kernel::{
    new_condvar,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::CondVar, //
};

static MOUNTS: SetOnce<Mounts> = SetOnce::new();

/// The mounts of all superblocks.
#[pin_data]
struct Mounts {
    #[pin]
    registry: SpinLock<Registry>,
    /// Notified when an entry gets its mount, or is removed.
    #[pin]
    idle: CondVar,
}

struct Registry {
    entries: RBTree<SuperBlock, Entry>,
    /// `None` once the module is being unloaded.
    shared: Option<Arc<Shared>>,
}

/// The resources that all mounts share.
struct Shared {
    /// `/sys/fs/scoutfs_fence`.
    kset: Kset,
    /// Outlives all mounts, so that no worker drops the last reference to it.
    queue: Arc<Queue>,
}

struct Entry {
    place: Place,
    /// `None` while the mount is being set up or destroyed.
    mount: Option<Arc<Mount>>,
}

/// The parent of a mount's `fence` directory; no two mounts may share one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// `/sys/fs/scoutfs_fence/<major>:<minor>`.
    Device(Device),
    /// The filesystem's directory, by [`Kobject::identity`].
    Kobject(usize),
}

/// Creates the registry and the shared resources, when the module is loaded. May sleep.
/// Errors: `ENOMEM`.
pub(crate) fn init() -> Result {
    let shared = Shared {
        kset: Kset::create(c_str!("scoutfs_fence"), Kobject::fs())?,
        queue: Queue::new(c_str!("scoutfs_fence"))?,
    };
    let registry = Registry {
        entries: RBTree::new(),
        shared: Some(Arc::new(shared, GFP_KERNEL)?),
    };
    MOUNTS.populate(pin_init!(Mounts {
        registry <- new_spinlock!(registry, "scoutfs_fence_registry"),
        idle <- new_condvar!("scoutfs_fence_idle"),
    }))
}

/// Destroys all mounts, when the module is unloaded. May sleep.
///
/// Waits for all work. Kobjects may be released later: the C side does that.
pub(crate) fn exit() {
    let Some(mounts) = MOUNTS.as_ref() else {
        return;
    };
    // No filesystem module is left that calls `setup`.
    while let Some(super_block) = mounts.first() {
        if let Some(mount) = mounts.begin_destroy(super_block) {
            let text = format_args!("still set up when the module is unloaded, destroying it");
            glue::log_error(mount.label(), text);
            Mount::destroy(&mount);
            mounts.remove(super_block);
        }
    }
    let shared = mounts.registry.lock().shared.take();
    drop(shared);
}

/// Sets up the mount of a superblock below a directory of ours, named by the device number. May
/// sleep; does not recurse into the filesystem.
/// Errors: `EBUSY` if the superblock is set up, or another one with this device number; `ENOMEM`.
pub(crate) fn setup(super_block: SuperBlock, device: Device) -> Result {
    add(super_block, Place::Device(device), |shared| {
        let (major, minor) = (device.major(), device.minor());
        let name = CString::try_from_fmt(format_args!("{major}:{minor}"))?;
        let label = CString::try_from_fmt(format_args!("scoutfs_fence {major}:{minor}"))?;
        let parent = Directory::create(&name, &shared.kset)?;
        let fence = Directory::create(c_str!("fence"), &parent)?;
        Mount::new(label, fence, Some(parent), &shared.kset, &shared.queue)
    })
}

/// Sets up the mount of a superblock below a directory of the filesystem. May sleep; does not
/// recurse into the filesystem.
/// Errors: `EBUSY` if the superblock is set up, or another one below this directory; `ENOMEM`.
pub(crate) fn setup_under(super_block: SuperBlock, parent: &Kobject) -> Result {
    add(super_block, Place::Kobject(parent.identity()), |shared| {
        let label = CString::try_from_fmt(format_args!("scoutfs {}", parent.name()))?;
        let fence = Directory::create(c_str!("fence"), parent)?;
        Mount::new(label, fence, None, &shared.kset, &shared.queue)
    })
}

fn add(
    super_block: SuperBlock,
    place: Place,
    new: impl FnOnce(&Shared) -> Result<Arc<Mount>>,
) -> Result {
    let mounts = MOUNTS.as_ref().ok_or(ENODEV)?;
    memalloc_nofs(|| {
        let shared = mounts.reserve(super_block, place)?;
        let mount = new(&shared).inspect_err(|_| mounts.remove(super_block))?;
        mounts.publish(super_block, mount);
        Ok(())
    })
}

/// The mount of a superblock. Never sleeps.
/// Errors: `ENODEV` if the superblock is not set up, with a line in the log that names `function`.
pub(crate) fn find(super_block: SuperBlock, function: &CStr) -> Result<Arc<Mount>> {
    look_up(super_block).ok_or_else(|| {
        glue::log_not_set_up(function);
        ENODEV
    })
}

/// Drops every request of a superblock, if it is set up. May sleep.
pub(crate) fn stop(super_block: SuperBlock) {
    if let Some(mount) = look_up(super_block) {
        Mount::stop(&mount);
    }
}

/// Destroys the mount of a superblock, if it is set up. May sleep, also until uevents are sent.
pub(crate) fn destroy(super_block: SuperBlock) {
    let Some(mounts) = MOUNTS.as_ref() else {
        return;
    };
    if let Some(mount) = mounts.begin_destroy(super_block) {
        Mount::destroy(&mount);
        mounts.remove(super_block);
    }
}

fn look_up(super_block: SuperBlock) -> Option<Arc<Mount>> {
    let registry = MOUNTS.as_ref()?.registry.lock();
    registry.entries.get(&super_block)?.mount.clone()
}

impl Mounts {
    /// Adds an entry without a mount.
    /// Errors: `EBUSY` if the superblock or the place has an entry; `ENOMEM`.
    fn reserve(&self, super_block: SuperBlock, place: Place) -> Result<Arc<Shared>> {
        let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
        let mut registry = self.registry.lock();
        let shared = registry.shared.clone().ok_or(ENODEV)?;
        let entries = &mut registry.entries;
        if entries.get(&super_block).is_some() || entries.values().any(|entry| entry.place == place)
        {
            return Err(EBUSY);
        }
        let entry = Entry { place, mount: None };
        entries.insert(node.into_node(super_block, entry));
        Ok(shared)
    }

    /// Gives an entry its mount.
    fn publish(&self, super_block: SuperBlock, mount: Arc<Mount>) {
        if let Some(entry) = self.registry.lock().entries.get_mut(&super_block) {
            entry.mount = Some(mount);
        }
        self.idle.notify_all();
    }

    /// Takes the mount of an entry, if there is one. Sleeps while the entry has no mount.
    fn begin_destroy(&self, super_block: SuperBlock) -> Option<Arc<Mount>> {
        let mut registry = self.registry.lock();
        loop {
            let mount = registry.entries.get_mut(&super_block)?.mount.take();
            if mount.is_some() {
                return mount;
            }
            self.idle.wait(&mut registry);
        }
    }

    /// Removes an entry.
    fn remove(&self, super_block: SuperBlock) {
        let node = self.registry.lock().entries.remove_node(&super_block);
        drop(node);
        self.idle.notify_all();
    }

    fn first(&self) -> Option<SuperBlock> {
        self.registry.lock().entries.keys().next().copied()
    }
}
