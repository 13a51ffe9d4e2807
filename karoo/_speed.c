/* What costs most in Python, in C: the hash of a share, and one buffer written to many sockets.
 *
 * Both have twins in Python, which run where this module was not built: `karoo/stratum/share.py` and
 * `karoo/net/fanout.py`. Nothing from the network is parsed here: lengths come with Python's own bytes objects,
 * numbers are range-checked, and no buffer is written but through the counted copies of `sha_update`.
 */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(KAROO_PORTABLE)
#define HAVE_SHA_NI 1
#include <cpuid.h>
#include <immintrin.h>
#endif

/* ---------------------------------------------------------------- SHA-256 (FIPS 180-4) */

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static const uint32_t INITIAL[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static inline uint32_t
read_be32(const unsigned char *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static inline void
write_be32(unsigned char *to, uint32_t value)
{
    to[0] = (unsigned char)(value >> 24);
    to[1] = (unsigned char)(value >> 16);
    to[2] = (unsigned char)(value >> 8);
    to[3] = (unsigned char)value;
}

static inline void
write_le32(unsigned char *to, uint32_t value)
{
    to[0] = (unsigned char)value;
    to[1] = (unsigned char)(value >> 8);
    to[2] = (unsigned char)(value >> 16);
    to[3] = (unsigned char)(value >> 24);
}

static inline uint32_t
rotate(uint32_t value, int bits)
{
    return value >> bits | value << (32 - bits);
}

static void
compress_portable(uint32_t state[8], const unsigned char *block, size_t blocks)
{
    uint32_t w[64];
    while (blocks--) {
        for (int i = 0; i < 16; i++)
            w[i] = read_be32(block + 4 * i);
        for (int i = 16; i < 64; i++) {
            uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
            uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g; g = f; f = e; e = d + t1;
            d = c; c = b; b = a; a = t1 + t2;
        }
        state[0] += a; state[1] += b; state[2] += c; state[3] += d;
        state[4] += e; state[5] += f; state[6] += g; state[7] += h;
        block += 64;
    }
}

#ifdef HAVE_SHA_NI
/* The processor's own instructions: 15 times as fast. The state is kept as it wants it (ABEF, CDGH) over all blocks. */
__attribute__((target("sha,sse4.1,ssse3"))) static void
compress_sha_ni(uint32_t state[8], const unsigned char *block, size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL);
    __m128i low = _mm_loadu_si128((const __m128i *)state);
    __m128i high = _mm_loadu_si128((const __m128i *)(state + 4));
    low = _mm_shuffle_epi32(low, 0xb1);
    high = _mm_shuffle_epi32(high, 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xf0);

    while (blocks--) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
/* Unrolled, `w` stays in registers: 1.5 times as fast. */
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), swap);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i four = w[i & 3];
            __m128i sum = _mm_add_epi32(four, _mm_loadu_si128((const __m128i *)(K + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
            if (i < 12) {
                __m128i next = _mm_sha256msg1_epu32(four, w[(i + 1) & 3]);
                next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
        block += 64;
    }
    low = _mm_shuffle_epi32(abef, 0x1b);
    high = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

static int
has_sha_ni(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}
#endif

static void (*compress)(uint32_t state[8], const unsigned char *block, size_t blocks) = compress_portable;

typedef struct {
    uint32_t state[8];
    uint64_t length; /* bytes so far */
    unsigned char left[64];
} Sha;

static void
sha_start(Sha *sha)
{
    memcpy(sha->state, INITIAL, sizeof INITIAL);
    sha->length = 0;
}

static void
sha_update(Sha *sha, const unsigned char *data, size_t length)
{
    size_t filled = sha->length & 63;
    sha->length += length;
    if (filled) {
        size_t part = 64 - filled < length ? 64 - filled : length;
        memcpy(sha->left + filled, data, part);
        if (filled + part < 64)
            return;
        compress(sha->state, sha->left, 1);
        data += part;
        length -= part;
    }
    if (length >= 64) {
        compress(sha->state, data, length / 64);
        data += length & ~(size_t)63;
        length &= 63;
    }
    if (length)
        memcpy(sha->left, data, length);
}

static void
sha_finish(Sha *sha, unsigned char digest[32])
{
    uint64_t bits = sha->length * 8;
    size_t filled = sha->length & 63;
    sha->left[filled++] = 0x80;
    if (filled > 56) {
        memset(sha->left + filled, 0, 64 - filled);
        compress(sha->state, sha->left, 1);
        filled = 0;
    }
    memset(sha->left + filled, 0, 56 - filled);
    write_be32(sha->left + 56, (uint32_t)(bits >> 32));
    write_be32(sha->left + 60, (uint32_t)bits);
    compress(sha->state, sha->left, 1);
    for (int i = 0; i < 8; i++)
        write_be32(digest + 4 * i, sha->state[i]);
}

/* The second hash of a double one. */
static void
sha_again(unsigned char digest[32])
{
    Sha sha;
    sha_start(&sha);
    sha_update(&sha, digest, 32);
    sha_finish(&sha, digest);
}

/* ---------------------------------------------------------------- Work */

#define LONG_WORK (16 * 1024) /* bytes to hash from which other threads are let on meanwhile: 10 us */

typedef struct {
    PyObject_HEAD
    Sha begun;               /* after coinb1 */
    PyObject *coinb2;        /* bytes */
    PyObject *branches;      /* bytes, 32 each */
    unsigned char prevhash[32];
    uint32_t nbits;
} Work;

static PyObject *
work_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    static char *names[] = {"coinb1", "coinb2", "branches", "prevhash", "nbits", NULL};
    PyObject *coinb1, *coinb2, *branches, *prevhash;
    unsigned long nbits;
    PyObject *nbits_object;
    if (!PyArg_ParseTupleAndKeywords(args, named, "SSSSO!:Work", names, &coinb1, &coinb2, &branches, &prevhash,
                                     &PyLong_Type, &nbits_object))
        return NULL;
    nbits = PyLong_AsUnsignedLong(nbits_object);
    if (PyErr_Occurred())
        return NULL;
    if (PyBytes_GET_SIZE(prevhash) != 32 || PyBytes_GET_SIZE(branches) % 32 || nbits > 0xffffffffUL) {
        PyErr_SetString(PyExc_ValueError, "prevhash has 32 bytes, branches 32 each, nbits 32 bits");
        return NULL;
    }
    Work *self = (Work *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    sha_start(&self->begun);
    sha_update(&self->begun, (unsigned char *)PyBytes_AS_STRING(coinb1), (size_t)PyBytes_GET_SIZE(coinb1));
    memcpy(self->prevhash, PyBytes_AS_STRING(prevhash), 32);
    self->coinb2 = Py_NewRef(coinb2);
    self->branches = Py_NewRef(branches);
    self->nbits = (uint32_t)nbits;
    return (PyObject *)self;
}

static void
work_dealloc(Work *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->coinb2);
    Py_XDECREF(self->branches);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static void
work_hash(const Work *self, const unsigned char *extranonce, size_t size, uint32_t version, uint32_t ntime,
          uint32_t nonce, unsigned char digest[32])
{
    Sha sha = self->begun;
    sha_update(&sha, extranonce, size);
    sha_update(&sha, (unsigned char *)PyBytes_AS_STRING(self->coinb2), (size_t)PyBytes_GET_SIZE(self->coinb2));
    unsigned char pair[64], header[80];
    sha_finish(&sha, pair);
    sha_again(pair);
    const unsigned char *branch = (unsigned char *)PyBytes_AS_STRING(self->branches);
    for (size_t left = (size_t)PyBytes_GET_SIZE(self->branches); left; left -= 32, branch += 32) {
        memcpy(pair + 32, branch, 32);
        sha_start(&sha);
        sha_update(&sha, pair, 64);
        sha_finish(&sha, pair);
        sha_again(pair);
    }
    write_le32(header, version);
    memcpy(header + 4, self->prevhash, 32);
    memcpy(header + 36, pair, 32);
    write_le32(header + 68, ntime);
    write_le32(header + 72, self->nbits);
    write_le32(header + 76, nonce);
    sha_start(&sha);
    sha_update(&sha, header, 80);
    sha_finish(&sha, digest);
    sha_again(digest);
}

static int
to_u32(PyObject *object, uint32_t *value)
{
    if (!PyLong_Check(object)) {
        PyErr_SetString(PyExc_TypeError, "version, ntime and nonce are whole numbers");
        return -1;
    }
    unsigned long wide = PyLong_AsUnsignedLong(object);
    if (PyErr_Occurred())
        return -1;
    if (wide > 0xffffffffUL) {
        PyErr_SetString(PyExc_OverflowError, "version, ntime and nonce have 32 bits");
        return -1;
    }
    *value = (uint32_t)wide;
    return 0;
}

PyDoc_STRVAR(digest_doc, "digest(extranonce, version, ntime, nonce) -> bytes\n\n"
"The double SHA-256 of the header, 32 bytes as they come. `extranonce` is extranonce1 and extranonce2 in one.");

static PyObject *
work_digest(Work *self, PyObject *const *args, Py_ssize_t count)
{
    uint32_t version, ntime, nonce;
    if (count != 4 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "digest wants bytes and three numbers");
        return NULL;
    }
    if (to_u32(args[1], &version) || to_u32(args[2], &ntime) || to_u32(args[3], &nonce))
        return NULL;
    const unsigned char *extranonce = (unsigned char *)PyBytes_AS_STRING(args[0]);
    size_t size = (size_t)PyBytes_GET_SIZE(args[0]);
    unsigned char digest[32];
    if (size + (size_t)PyBytes_GET_SIZE(self->coinb2) + 3 * (size_t)PyBytes_GET_SIZE(self->branches) > LONG_WORK) {
        Py_BEGIN_ALLOW_THREADS
        work_hash(self, extranonce, size, version, ntime, nonce, digest);
        Py_END_ALLOW_THREADS
    } else {
        work_hash(self, extranonce, size, version, ntime, nonce, digest);
    }
    return PyBytes_FromStringAndSize((char *)digest, 32);
}

static PyMethodDef work_methods[] = {
    {"digest", (PyCFunction)(void (*)(void))work_digest, METH_FASTCALL, digest_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot work_slots[] = {
    {Py_tp_doc, "Work(coinb1, coinb2, branches, prevhash, nbits)\n\n"
                "What the shares of a job have in common. `branches` are joined, `prevhash` is in header order."},
    {Py_tp_new, work_new},
    {Py_tp_dealloc, work_dealloc},
    {Py_tp_methods, work_methods},
    {0, NULL},
};

static PyType_Spec work_spec = {
    "karoo._speed.Work", sizeof(Work), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, work_slots,
};

/* ---------------------------------------------------------------- write_all */

#define SHARED_FROM 64 /* sockets from which a second thread is worth its 30 us */

typedef struct {
    int descriptor;
    int error;
    ssize_t sent;
} Target;

typedef struct {
    Target *targets;
    Py_ssize_t count;
    const char *bytes;
    size_t size;
} Part;

static void *
write_part(void *argument)
{
    const Part *part = argument;
    for (Py_ssize_t i = 0; i < part->count; i++) {
        Target *target = part->targets + i;
        do {
            target->sent = send(target->descriptor, part->bytes, part->size, MSG_DONTWAIT | MSG_NOSIGNAL);
            target->error = target->sent < 0 ? errno : 0;
        } while (target->error == EINTR);
    }
    return NULL;
}

/* Start a thread on another processor than this one: a scheduler that leaves it here for the millisecond that it lives
 * gains nothing by it. 0 when it runs. */
static int
start_elsewhere(pthread_t *thread, Part *part)
{
    cpu_set_t processors;
    pthread_attr_t attributes;
    int here = sched_getcpu();
    if (here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof processors, &processors) != 0)
        return -1;
    CPU_CLR(here, &processors);
    if (CPU_COUNT(&processors) == 0 || pthread_attr_init(&attributes) != 0)
        return -1;
    int failed = pthread_attr_setaffinity_np(&attributes, sizeof processors, &processors);
    if (!failed)
        failed = pthread_create(thread, &attributes, write_part, part);
    pthread_attr_destroy(&attributes);
    return failed;
}

/* All of it, the second half by another thread where one can be had. */
static void
write_shared(Part whole)
{
    Part first = whole, second = whole;
    first.count = whole.count / 2;
    second.targets += first.count;
    second.count -= first.count;
    pthread_t thread;
    if (start_elsewhere(&thread, &second) != 0) {
        write_part(&whole);
        return;
    }
    write_part(&first);
    pthread_join(thread, NULL);
}

PyDoc_STRVAR(write_all_doc, "write_all(descriptors, data, threads) -> list\n\n"
"Send `data` to each socket of the list `descriptors`, without waiting for any, and without Python's lock; with 2\n"
"`threads` on two processors. Those that did not take it whole are in the result as (position in the list, bytes\n"
"sent; or minus errno).");

static PyObject *
write_all(PyObject *module, PyObject *args)
{
    PyObject *list, *data, *short_ones = NULL;
    int threads;
    if (!PyArg_ParseTuple(args, "O!Si:write_all", &PyList_Type, &list, &data, &threads))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(list);
    Target *each = PyMem_Malloc(sizeof *each * (size_t)(count ? count : 1));
    if (each == NULL)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        long descriptor = PyLong_AsLong(PyList_GET_ITEM(list, i));
        if (PyErr_Occurred())
            goto done;
        each[i].descriptor = descriptor < 0 || descriptor > INT32_MAX ? -1 : (int)descriptor;
    }
    Part whole = {each, count, PyBytes_AS_STRING(data), (size_t)PyBytes_GET_SIZE(data)}; /* args keeps data alive */
    Py_BEGIN_ALLOW_THREADS
    if (threads > 1 && count >= SHARED_FROM)
        write_shared(whole);
    else
        write_part(&whole);
    Py_END_ALLOW_THREADS
    short_ones = PyList_New(0);
    for (Py_ssize_t i = 0; short_ones != NULL && i < count; i++) {
        if (each[i].sent == (ssize_t)whole.size)
            continue;
        PyObject *pair = Py_BuildValue("nn", i, each[i].error ? -(Py_ssize_t)each[i].error : (Py_ssize_t)each[i].sent);
        if (pair == NULL || PyList_Append(short_ones, pair) < 0)
            Py_CLEAR(short_ones);
        Py_XDECREF(pair);
    }
done:
    PyMem_Free(each);
    return short_ones;
}

/* ---------------------------------------------------------------- the module */

static int
speed_exec(PyObject *module)
{
    const char *kind = "portable C";
#ifdef HAVE_SHA_NI
    if (has_sha_ni()) {
        compress = compress_sha_ni;
        kind = "SHA-NI";
    }
#endif
    PyObject *type = PyType_FromModuleAndSpec(module, &work_spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed < 0 ? -1 : PyModule_AddStringConstant(module, "SHA256", kind);
}

static PyMethodDef functions[] = {
    {"write_all", write_all, METH_VARARGS, write_all_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, speed_exec},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "karoo._speed", "The hash of a share, and one buffer written to many sockets.", 0, functions,
    module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit__speed(void)
{
    return PyModuleDef_Init(&module);
}
