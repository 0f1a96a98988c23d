/* Runs a module that was exported with --format tvm, in C++ and without Python:
 *
 *     host MODEL.so INPUT.f32 OUTPUT.f32 [--runs N]
 *
 * INPUT is float32 images as the model takes them (NCHW), one after the other; OUTPUT becomes all outputs of the first
 * image, then of the next, as float32. Every image is run N times (once), and the median of all times is printed.
 * TVM_NUM_THREADS=1 in the environment asks for one thread.
 *
 * The wheels apache-tvm and apache-tvm-ffi bring headers and libraries; F is the folder tvm_ffi of one, T is tvm of the
 * other:
 *
 *     c++ -std=c++17 -O2 host.cc -o host -IF/include -LT/lib -LF/lib -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi \
 *         -Wl,-rpath,T/lib:F/lib
 */
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

using namespace tvm::ffi;

struct Aligned {
    void AllocData(DLTensor *tensor) {
        size_t bytes = (GetDataSize(*tensor) + 63) / 64 * 64;
        tensor->data = std::aligned_alloc(64, bytes);
        if (tensor->data == nullptr)
            throw std::runtime_error("no memory for an image");
    }
    void FreeData(DLTensor *tensor) {
        std::free(tensor->data);
    }
};

/* Functions of the module are called through TVM's C interface, so that any C++ library will do. */
static Function function_of(const Any &module, const char *name) {
    Function get = Function::GetGlobalRequired("ffi.ModuleGetFunction");
    auto found = get(module, name, false).cast<Optional<Function>>();
    if (!found.has_value())
        throw std::runtime_error(std::string("the module has no function ") + name);
    return *found;
}

/* A name without a folder would be searched for among the system's libraries. */
static Any load(const char *path) {
    std::string whole = std::filesystem::absolute(path).string();
    Any library = Function::GetGlobalRequired("ffi.ModuleLoadFromFile")(whole);
    Any machine = function_of(library, "vm_load_executable")();
    const int pooled = 2;
    function_of(machine, "vm_initialization")(static_cast<int>(kDLCPU), 0, pooled);
    return machine;
}

static std::vector<float> read(const char *path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    std::streamoff bytes = file ? static_cast<std::streamoff>(file.tellg()) : -1;
    if (bytes < 0 || bytes % 4 != 0)
        throw std::runtime_error(std::string(path) + " is no file of float32 numbers");
    std::vector<float> numbers(static_cast<size_t>(bytes) / 4);
    file.seekg(0);
    if (!file.read(reinterpret_cast<char *>(numbers.data()), bytes))
        throw std::runtime_error(std::string(path) + " cannot be read");
    return numbers;
}

/* Append an output: float32, or integers as the nearest float32. */
static void append(std::vector<float> &all, const Tensor &output) {
    auto put = [&](auto *numbers) { all.insert(all.end(), numbers, numbers + output.numel()); };
    DLDataType type = output.dtype();
    if (type.code == kDLFloat && type.bits == 32)
        put(static_cast<const float *>(output.data_ptr()));
    else if (type.code == kDLInt && type.bits == 32)
        put(static_cast<const int32_t *>(output.data_ptr()));
    else if (type.code == kDLInt && type.bits == 64)
        put(static_cast<const int64_t *>(output.data_ptr()));
    else
        throw std::runtime_error("an output is neither float32 nor integers");
}

static void run(const char *model, const char *input, const char *output, int runs) {
    Any machine = load(model);
    auto shape = function_of(machine, "input_shape")().cast<Shape>();
    Tensor image = Tensor::FromNDAlloc(Aligned(), shape, DLDataType{kDLFloat, 32, 1}, DLDevice{kDLCPU, 0});
    std::vector<float> images = read(input), outputs;
    size_t size = static_cast<size_t>(image.numel());
    if (images.empty() || images.size() % size != 0)
        throw std::runtime_error(std::string(input) + " has " + std::to_string(images.size()) + " numbers, an image " +
                                 std::to_string(size));
    Function main = function_of(machine, "main");
    std::vector<double> times;
    for (size_t first = 0; first < images.size(); first += size) {
        std::memcpy(image.data_ptr(), &images[first], size * sizeof(float));
        Any result;
        for (int i = 0; i < runs; i++) {
            auto start = std::chrono::steady_clock::now();
            result = main(image);
            times.push_back(
                std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
        }
        if (auto one = result.as<Tensor>())
            append(outputs, *one);
        else
            for (const Tensor &each : result.cast<Array<Tensor>>())
                append(outputs, each);
    }
    std::ofstream file(output, std::ios::binary);
    file.write(reinterpret_cast<const char *>(outputs.data()), static_cast<std::streamsize>(outputs.size() * 4));
    if (!file.flush())
        throw std::runtime_error(std::string(output) + " cannot be written");
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    std::printf("%zu images, %zu runs, median %.1f us\n", images.size() / size, times.size(), times[times.size() / 2]);
}

static int runs_of(int count, char **words) {
    if (count == 4)
        return 1;
    if (count == 6 && std::strcmp(words[4], "--runs") == 0)
        return std::atoi(words[5]);
    return 0;
}

int main(int count, char **words) {
    int runs = runs_of(count, words);
    if (runs < 1) {
        std::fprintf(stderr, "usage: host MODEL.so INPUT.f32 OUTPUT.f32 [--runs N]\n");
        return 2;
    }
    try {
        run(words[1], words[2], words[3], runs);
    } catch (const Error &error) {
        std::string line = error.message();
        std::fprintf(stderr, "host: %s\n", line.substr(0, line.find('\n')).c_str());
        return 2;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "host: %s\n", error.what());
        return 2;
    }
    return 0;
}
