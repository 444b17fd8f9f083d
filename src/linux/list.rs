// SPDX-License-Identifier: GPL-2.0-only

//! Intrusive lists: the kernel crate's, whose macros differ between kernels.

/// Implements `ListItem` for a type by its field `$links`, a `kernel::list::ListLinks`, and
/// `TryNewListArc` by its field `$tracker`, a `kernel::list::AtomicTracker`.
///
/// # Examples
///
/// ```ignore
/// #[pin_data]
/// struct Item {
///     #[pin]
///     links: ListLinks,
///     #[pin]
///     tracker: AtomicTracker,
/// }
///
/// impl_list_item!(Item, links, tracker);
/// ```
macro_rules! impl_list_item {
    ($type:ident, $links:ident, $tracker:ident) => {
        kernel::list::impl_list_arc_safe! {
            impl ListArcSafe<0> for $type {
                tracked_by $tracker: kernel::list::AtomicTracker;
            }
        }

        #[cfg(not(impl_list_item_names_links))]
        kernel::list::impl_has_list_links! {
            impl HasListLinks<0> for $type { self.$links }
        }

        #[cfg(not(impl_list_item_names_links))]
        kernel::list::impl_list_item! {
            impl ListItem<0> for $type { using ListLinks; }
        }

        #[cfg(impl_list_item_names_links)]
        kernel::list::impl_list_item! {
            impl ListItem<0> for $type { using ListLinks { self.$links }; }
        }
    };
}
pub(crate) use impl_list_item;
