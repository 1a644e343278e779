#!/bin/sh
# Who may include whom.  Reads every #include "folder/..." under the root given
# as $1 and fails on one that points upward or sideways.
cd "$1" || exit 2
allowed() {
    case "$1" in
    base) echo base ;;
    kernels) echo base kernels ;;
    autograd) echo base kernels autograd ;;
    optim) echo base kernels autograd optim ;;
    data) echo base data ;;
    recipes) echo base recipes ;;
    train/models|train/adapters) echo base kernels autograd "$1" ;;
    train) echo base kernels autograd optim data recipes train \
        train/models train/adapters train/align train/offload train/prune ;;
    tools) echo base kernels autograd optim data recipes tools train \
        train/models train/adapters train/align train/offload train/prune ;;
    esac
}
bad=0
for f in $(find base kernels autograd optim data recipes train tools \
               -name '*.[ch]'); do
    dir=$(dirname "$f")
    case "$dir" in
    train/models|train/adapters) from=$dir ;;
    *) from=${dir%%/*} ;;
    esac
    for to in $(sed -n 's/^#include "\([^"]*\)\/[^"\/]*".*/\1/p' "$f"); do
        case "$to" in
        train/*) layer=$(echo "$to" | cut -d/ -f1-2) ;;
        *) layer=${to%%/*} ;;
        esac
        [ "$layer" = attune ] && continue
        case " $(allowed "$from") " in
        *" $layer "*) ;;
        *) echo "$f: $from may not include $layer"; bad=1 ;;
        esac
    done
done
for f in $(grep -rlE '^#include <hdf5(_hl)?\.h>' --include='*.[ch]' base \
               kernels autograd optim data recipes train tools); do
    case "$f" in
    data/h5.c|data/h5_driver.[ch]) ;;
    *) echo "$f: only data/h5.c and its driver include hdf5.h"; bad=1 ;;
    esac
done
exit $bad
