/* An HDF5 file driver over a descriptor that keeps errors to itself. */
#include "data/h5_driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct target { int fd, *error; };      /* handed over in the access list     */

struct file {
    H5FD_t base;
    struct target to;
    haddr_t eoa, eof;       /* end of what is allocated, and of what is there */
};

static H5FD_t *open_file(const char *name, unsigned flags, hid_t access,
                         haddr_t max)
{
    const struct target *to = H5Pget_driver_info(access);
    struct file *f = to ? calloc(1, sizeof *f) : NULL;
    (void)name;
    (void)flags;
    (void)max;
    if (!f)
        return NULL;
    f->to = *to;
    return &f->base;
}

static herr_t close_file(H5FD_t *base)
{
    free(base);
    return 0;
}

static herr_t query(const H5FD_t *base, unsigned long *flags)
{
    (void)base;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t get_eoa(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct file *)base)->eoa;
}

static herr_t set_eoa(H5FD_t *base, H5FD_mem_t type, haddr_t at)
{
    (void)type;
    ((struct file *)base)->eoa = at;
    return 0;
}

static haddr_t get_eof(const H5FD_t *base, H5FD_mem_t type)
{
    (void)type;
    return ((const struct file *)base)->eof;
}

static herr_t read_at(H5FD_t *base, H5FD_mem_t type, hid_t transfer,
                      haddr_t at, size_t n, void *dst)
{
    struct file *f = (struct file *)base;
    char *p = dst;
    (void)type;
    (void)transfer;
    memset(p, 0, n);
    while (n > 0) {
        ssize_t r = pread(f->to.fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r <= 0)
            return r < 0 ? -1 : 0;      /* behind the end there are zeros     */
        p += r;
        n -= (size_t)r;
        at += (haddr_t)r;
    }
    return 0;
}

static herr_t write_at(H5FD_t *base, H5FD_mem_t type, hid_t transfer,
                       haddr_t at, size_t n, const void *src)
{
    struct file *f = (struct file *)base;
    const char *p = src;
    (void)type;
    (void)transfer;
    if (at + n > f->eof)
        f->eof = at + n;
    while (n > 0 && !*f->to.error) {
        ssize_t w = pwrite(f->to.fd, p, n, (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            *f->to.error = w < 0 ? errno : EIO;
            break;
        }
        p += w;
        n -= (size_t)w;
        at += (haddr_t)w;
    }
    return 0;
}

static herr_t cut(H5FD_t *base, hid_t transfer, hbool_t closing)
{
    struct file *f = (struct file *)base;
    (void)transfer;
    (void)closing;
    if (!*f->to.error && ftruncate(f->to.fd, (off_t)f->eoa) < 0)
        *f->to.error = errno;
    f->eof = f->eoa;
    return 0;
}

static const H5FD_class_t driver = {
#ifdef H5FD_CLASS_VERSION           /* HDF5 1.14                              */
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)(H5_VFD_RESERVED + 71),
#endif
    .name = "attune",
    .maxaddr = ((haddr_t)1 << 62) - 1,
    .fc_degree = H5F_CLOSE_WEAK,
    .fapl_size = sizeof(struct target),
    .open = open_file,
    .close = close_file,
    .query = query,
    .get_eoa = get_eoa,
    .set_eoa = set_eoa,
    .get_eof = get_eof,
    .read = read_at,
    .write = write_at,
    .truncate = cut,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

hid_t at_h5_driver(hid_t access, int fd, int *error)
{
    struct target to = { fd, error };
    hid_t id = H5FDregister(&driver);
    if (id >= 0 && H5Pset_driver(access, id, &to) < 0) {
        H5FDunregister(id);
        return -1;
    }
    return id;
}
