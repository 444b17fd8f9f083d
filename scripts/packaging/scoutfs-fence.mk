# SPDX-License-Identifier: GPL-2.0-only
# For inclusion in the Kbuild file of a filesystem that calls scoutfs_fence:
#
#     include @folder@/scoutfs-fence.mk

ccflags-y += -I@folder@
# DKMS installs it there after building the module.
KBUILD_EXTRA_SYMBOLS += /lib/modules/$(KERNELRELEASE)/scoutfs-fence/Module.symvers
