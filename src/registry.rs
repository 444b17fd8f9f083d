// SPDX-License-Identifier: GPL-2.0-only

//! Which mount belongs to which superblock.
//!
//! # Locking
//!
//! The mutex `root` serialises setup and destroy, so that a mount's directory is gone before
//! another one of its name is made. The spinlock `mounts` protects the map. A call takes a
//! reference to its mount and goes on without either, so destroy may run at any time.

use crate::{
    events,
    linux::{
        delayed_work::Queue,
        global::Global,
        kobject::{
            Directory,
            Kobject,
            Set, //
        },
        memalloc::NofsScope,
        super_block::{
            Device,
            SuperBlock, //
        }, //
    },
    mount::{
        Mount,
        MountRef,
        Parent,
        Place,
        Shared, //
    }, //
};
use kernel::{
    c_str,
    new_mutex,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    str::CString,
    sync::{
        Arc,
        Mutex,
        SpinLock, //
    }, //
};

static REGISTRY: Global<Registry> = Global::new();

#[pin_data]
struct Registry {
    #[pin]
    root: Mutex<Option<Arc<Shared>>>,
    #[pin]
    mounts: SpinLock<RBTree<usize, MountRef>>,
}

/// Makes what all mounts share, when the module is loaded. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn open() -> Result {
    let root = Shared {
        directory: Set::create(c_str!("scoutfs_fence"), Kobject::fs())?,
        alarms: Queue::new_highpri(c_str!("scoutfs_fence"))?,
        tellers: Queue::new(c_str!("scoutfs_fence_tell"))?,
    };
    let root = Arc::new(root, GFP_KERNEL)?;
    REGISTRY.init(pin_init!(Registry {
        root <- new_mutex!(Some(root), "scoutfs_fence_root"),
        mounts <- new_spinlock!(RBTree::new(), "scoutfs_fence_mounts"),
    }))
}

/// Leaves nothing behind, when the module is unloaded. May sleep.
pub(crate) fn close() {
    let Some(registry) = REGISTRY.get() else {
        return;
    };
    let mut root = registry.root.lock();
    loop {
        let mut mounts = registry.mounts.lock();
        let Some(identity) = mounts.keys().next().copied() else {
            break;
        };
        let mount = mounts.remove(&identity);
        drop(mounts);
        if let Some(mount) = mount {
            events::left_behind(mount.name());
            Mount::destroy(&mount);
        }
    }
    *root = None;
}

/// Makes the mount of a superblock, with a directory of ours that is named for its device.
///
/// May sleep. Does not recurse into the filesystem.
///
/// # Errors
///
/// `EBUSY` where the superblock, or another one of that device, is set up already; `ENOMEM`.
pub(crate) fn setup(super_block: SuperBlock, device: Device) -> Result {
    add(super_block, Place::Device(device), |root| {
        let name = CString::try_from_fmt(format_args!("{}:{}", device.major(), device.minor()))?;
        Ok(Parent::Ours(Directory::create(&name, &root.directory)?))
    })
}

/// Makes the mount of a superblock below a directory that the filesystem has made.
///
/// May sleep. Does not recurse into the filesystem.
///
/// # Errors
///
/// `EBUSY` where the superblock is set up already, or the parent is another mount's; `ENOMEM`.
pub(crate) fn setup_under(super_block: SuperBlock, parent: &Kobject) -> Result {
    add(super_block, Place::Kobject(parent.identity()), |_| {
        Ok(Parent::TheFilesystems(parent))
    })
}

fn add<'a>(
    super_block: SuperBlock,
    place: Place,
    parent: impl FnOnce(&Shared) -> Result<Parent<'a>>,
) -> Result {
    let _nofs = NofsScope::enter();
    let registry = REGISTRY.get().ok_or(ENODEV)?;
    let root = registry.root.lock();
    let root = root.as_ref().ok_or(ENODEV)?;
    let identity = super_block.identity();
    {
        let mounts = registry.mounts.lock();
        if mounts.get(&identity).is_some() || mounts.values().any(|mount| mount.place() == place) {
            return Err(EBUSY);
        }
    }
    let node = RBTreeNodeReservation::new(GFP_KERNEL)?;
    let mount = Mount::new(place, parent(root)?, root.clone())?;
    registry
        .mounts
        .lock()
        .insert(node.into_node(identity, mount));
    Ok(())
}

/// The mount of a superblock. Never sleeps.
///
/// # Errors
///
/// `ENODEV`, with a line in the log that names `function`, where the superblock is not set up.
pub(crate) fn find(super_block: SuperBlock, function: &str) -> Result<MountRef> {
    look_up(super_block).ok_or_else(|| {
        events::unknown_super_block(function);
        ENODEV
    })
}

/// Drops every request of a superblock, where it is set up. May sleep.
pub(crate) fn stop(super_block: SuperBlock) {
    if let Some(mount) = look_up(super_block) {
        mount.stop();
    }
}

/// Drops every request of a superblock and its mount, where it is set up. May sleep.
pub(crate) fn destroy(super_block: SuperBlock) {
    let Some(registry) = REGISTRY.get() else {
        return;
    };
    let _root = registry.root.lock();
    let mount = registry.mounts.lock().remove(&super_block.identity());
    if let Some(mount) = mount {
        Mount::destroy(&mount);
    }
}

fn look_up(super_block: SuperBlock) -> Option<MountRef> {
    let mounts = REGISTRY.get()?.mounts.lock();
    mounts.get(&super_block.identity()).cloned()
}
