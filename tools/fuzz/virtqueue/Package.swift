// swift-tools-version: 6.3
// The fuzzers of virtqueues and of virtio-blk requests, apart from the product they look at. They need a sanitizer:
// `swift build -c release --sanitize fuzzer`; `run` beside this file does it all.
import PackageDescription

let fuzzer: [SwiftSetting] = [.unsafeFlags(["-parse-as-library"])]
let parts: [Target.Dependency] = [.product(name: "VirtqueueParts", package: "qblk")]

let package = Package(
    name: "fuzz-virtqueue",
    dependencies: [.package(name: "qblk", path: "../../..")],
    targets: [
        .executableTarget(name: "FuzzChains", dependencies: parts, swiftSettings: fuzzer),
        .executableTarget(name: "FuzzRequests", dependencies: parts, swiftSettings: fuzzer),
    ],
    swiftLanguageModes: [.v6]
)
