// SPDX-License-Identifier: GPL-2.0-only

//! Linux 6.12 wants `impl_has_list_links!` for the field, and `using ListLinks;` here.

use kernel::list::{
    impl_list_arc_safe,
    impl_list_item,
    ListLinks, //
};

struct Item {
    links: ListLinks,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Item { untracked; }
}

impl_list_item! {
    impl ListItem<0> for Item { using ListLinks { self.links }; }
}
