// What the rest of the program may know about CUDA: plain C++, the same with and without nvcc.
#pragma once

namespace squeeze {

// Whether this build contains the CUDA backend.
bool cuda_compiled();

// The devices that the driver offers; 0 without a driver, without a device, or in a build without CUDA.
int cuda_device_count();

// Why no CUDA device can be used, as one line for the user; null if one can.
const char* cuda_problem();

// The device that every thread computes on from now on; 0 at first. Call it before anything else uses a device. Throws
// if there is no such device.
void select_cuda_device(int index);

}  // namespace squeeze
