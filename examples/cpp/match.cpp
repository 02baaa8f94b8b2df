// Match two images with featherglue's end-to-end graphs in OpenVINO.
//
//     match GRAPHS IMAGE0 IMAGE1
//
// GRAPHS is a folder with extract.onnx and match.onnx; images are binary PGM or PPM files. Each line
// of the output is a match: x and y in image 0, x and y in image 1 (pixels), and the confidence.
#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

using Features = std::map<std::string, ov::Tensor>;

/// Read a number from the header of a PGM or PPM file, after white space and comments.
size_t read_number(std::istream& file) {
    std::string comment;
    while ((file >> std::ws).peek() == '#') std::getline(file, comment);
    size_t number = 0;
    file >> number;
    return number;
}

/// Read a PGM or PPM file as a gray tensor (1, 1, H, W) uint8, as OpenCV does.
ov::Tensor read_image(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + ": cannot be opened");
    std::string kind(2, ' ');
    file.read(kind.data(), 2);
    if (kind != "P5" && kind != "P6") throw std::runtime_error(path + ": not a binary PGM or PPM file");
    const size_t channels = kind == "P6" ? 3 : 1;
    const size_t width = read_number(file), height = read_number(file), maximum = read_number(file);
    file.get();  // one white space separates the header from the pixels
    if (!file || width < 8 || height < 8 || width > 8192 || height > 8192 || maximum != 255)
        throw std::runtime_error(path + ": needs sides of 8 to 8192 pixels and 8 bits per value");
    std::vector<uint8_t> pixels(width * height * channels);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
        throw std::runtime_error(path + ": is truncated");
    ov::Tensor image(ov::element::u8, {1, 1, height, width});
    auto* gray = image.data<uint8_t>();
    for (size_t i = 0; i < width * height; ++i) {
        const uint8_t* pixel = &pixels[i * channels];
        gray[i] = channels == 1 ? pixel[0]
                                : (9798 * pixel[0] + 19235 * pixel[1] + 3735 * pixel[2] + 16384) >> 15;
    }
    return image;
}

/// Compute features: keypoints (K, 2), scores (K), descriptors (K, D) and image_size (2).
Features extract(ov::CompiledModel& extractor, const ov::Tensor& image) {
    ov::InferRequest request = extractor.create_infer_request();  // its outputs stay valid
    request.set_tensor("image", image);
    request.infer();
    Features features;
    for (const char* name : {"keypoints", "scores", "descriptors"})
        features[name] = request.get_tensor(name);
    ov::Tensor size(ov::element::f32, {2});
    size.data<float>()[0] = static_cast<float>(image.get_shape()[3]);
    size.data<float>()[1] = static_cast<float>(image.get_shape()[2]);
    features["image_size"] = size;
    return features;
}

/// Match two sets of features; print a line for each match.
void match(ov::CompiledModel& matcher, const std::array<Features, 2>& views) {
    ov::InferRequest request = matcher.create_infer_request();
    for (size_t i = 0; i < 2; ++i)
        for (const auto& [name, tensor] : views[i])
            request.set_tensor(name + std::to_string(i), tensor);
    request.infer();
    const ov::Tensor matches = request.get_tensor("matches");  // (K) int64, −1 for none
    const auto* confidence = request.get_tensor("confidence").data<float>();
    const auto* keypoints0 = views[0].at("keypoints").data<float>();
    const auto* keypoints1 = views[1].at("keypoints").data<float>();
    std::puts("x0,y0,x1,y1,confidence");
    for (size_t index0 = 0; index0 < matches.get_size(); ++index0) {
        const int64_t index1 = matches.data<int64_t>()[index0];
        if (index1 < 0) continue;
        const float *point0 = keypoints0 + 2 * index0, *point1 = keypoints1 + 2 * index1;
        std::printf("%.3f,%.3f,%.3f,%.3f,%.5f\n", point0[0], point0[1], point1[0], point1[1],
                    confidence[index0]);
    }
}

int main(int argc, char** argv) try {
    if (argc != 4) {
        std::fputs("usage: match GRAPHS IMAGE0 IMAGE1\n", stderr);
        return 2;
    }
    const std::string folder = argv[1];
    const std::array<ov::Tensor, 2> images = {read_image(argv[2]), read_image(argv[3])};
    ov::Core core;
    core.set_property("CPU", ov::hint::inference_precision(ov::element::f32));  // never bfloat16
    ov::CompiledModel extractor = core.compile_model(folder + "/extract.onnx", "CPU");
    ov::CompiledModel matcher = core.compile_model(folder + "/match.onnx", "CPU");
    match(matcher, {extract(extractor, images[0]), extract(extractor, images[1])});
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
