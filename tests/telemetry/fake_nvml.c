/* A stand-in for libnvidia-ml.so.1: what each call answers stands in a text file that a test rewrites as it goes.
 *
 * The file is named by FAKE_NVML_SCRIPT; a line is "function return-code values...". The code "hang" blocks until the
 * line says otherwise. A device function without a line answers NOT_SUPPORTED, any other one SUCCESS. Structures are
 * laid out by NVIDIA's nvml.h, not by pynvml, so that the two are checked against each other.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, VERSION_MISMATCH = 25 };

typedef unsigned long long u64;
typedef struct { u64 total, free, used; } Memory;
typedef struct { unsigned version; u64 total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency_us;
    int value_type, code;
    union { double d; unsigned u; u64 ull; } value;
} FieldValue;

static int references = 0;
static long generation = 1;

/* Returns the code of a function's line and leaves its values; `missing` when there is no such line. */
static int look_up(const char *function, int missing, u64 *values, int most) {
    for (;;) {
        FILE *script = fopen(getenv("FAKE_NVML_SCRIPT"), "r");
        char line[512], name[128], code[32];
        int found = missing, hangs = 0, at = 0;
        while (script && fgets(line, sizeof line, script)) {
            if (sscanf(line, "%127s %31s%n", name, code, &at) != 2 || strcmp(name, function) != 0) continue;
            hangs = strcmp(code, "hang") == 0;
            found = atoi(code);
            char *rest = line + at;
            for (int i = 0; i < most; i++) values[i] = strtoull(rest, &rest, 10);
        }
        if (script) fclose(script);
        if (!hangs) return found;
        usleep(10000);
    }
}

static int ask_device(const char *function, void *device, u64 *values, int most) {
    if (references == 0) return UNINITIALIZED;
    if ((long)device >> 8 != generation) return INVALID_ARGUMENT; /* a handle from before a restart */
    return look_up(function, NOT_SUPPORTED, values, most);
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int code = look_up("nvmlInit", SUCCESS, NULL, 0);
    if (code == SUCCESS && references++ == 0) generation++;
    return code;
}

int nvmlShutdown(void) {
    if (references == 0) return UNINITIALIZED;
    references--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code == 21 ? "No data" : "an error of this stand-in"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    u64 value = 1;
    int code = look_up("nvmlDeviceGetCount", SUCCESS, &value, 1);
    *count = (unsigned)value;
    return references == 0 ? UNINITIALIZED : code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(generation << 8 | index);
    return references == 0 ? UNINITIALIZED : look_up("nvmlDeviceGetHandleByIndex", SUCCESS, NULL, 0);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    u64 unused = 0;
    int code = strncmp(uuid, "GPU-", 4) == 0 || strncmp(uuid, "MIG-", 4) == 0 ? SUCCESS : INVALID_ARGUMENT;
    *device = (void *)(generation << 8 | 1);
    return references == 0 ? UNINITIALIZED : look_up("nvmlDeviceGetHandleByUUID", code, &unused, 1);
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    u64 values[3] = {0};
    int code = ask_device("nvmlDeviceGetMemoryInfo", device, values, 3);
    *memory = (Memory){.total = values[0], .free = values[1], .used = values[2]};
    return code;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, MemoryV2 *memory) {
    u64 values[4] = {0};
    if (memory->version != (sizeof(MemoryV2) | 2 << 24)) return VERSION_MISMATCH;
    int code = ask_device("nvmlDeviceGetMemoryInfo_v2", device, values, 4);
    memory->total = values[0], memory->reserved = values[1], memory->free = values[2], memory->used = values[3];
    return code;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    u64 values[2] = {0};
    int code = ask_device("nvmlDeviceGetUtilizationRates", device, values, 2);
    *rates = (Utilization){.gpu = (unsigned)values[0], .memory = (unsigned)values[1]};
    return code;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    u64 value = 0;
    int code = ask_device("nvmlDeviceGetPowerUsage", device, &value, 1);
    *milliwatts = (unsigned)value;
    return code;
}

/* Values: triples of field, its own return code, milliwatts. */
int nvmlDeviceGetFieldValues(void *device, int count, FieldValue *fields) {
    u64 values[12] = {0};
    int code = ask_device("nvmlDeviceGetFieldValues", device, values, 12);
    for (int i = 0; i < count; i++) {
        fields[i].code = NOT_SUPPORTED;
        fields[i].value_type = 1;                    /* unsigned int: */
        fields[i].value.ull = 0xdeadbeefdeadbeefULL; /* only the low half of the union means something */
        for (int j = 0; j < 12; j += 3)
            if (values[j] == fields[i].field) {
                fields[i].code = (int)values[j + 1];
                fields[i].value.u = (unsigned)values[j + 2];
            }
    }
    return code;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, u64 *millijoules) {
    *millijoules = 0;
    return ask_device("nvmlDeviceGetTotalEnergyConsumption", device, millijoules, 1);
}

int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    u64 values[2] = {0};
    int code = ask_device("nvmlDeviceGetMigMode", device, values, 2);
    *current = (unsigned)values[0], *pending = (unsigned)values[1];
    return code;
}
