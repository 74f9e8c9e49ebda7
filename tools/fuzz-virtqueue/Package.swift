// swift-tools-version: 6.3
// Fuzzers and the instruction count of the rings, apart from the product they look at. Fuzzers need a sanitizer:
// `swift build -c release --sanitize fuzzer`; `run` and `cost` beside this file do it all.
import PackageDescription

let fuzzer: [SwiftSetting] = [.unsafeFlags(["-parse-as-library"])]
let parts: [Target.Dependency] = [.product(name: "VirtqueueParts", package: "qblk")]

let package = Package(
    name: "fuzz-virtqueue",
    dependencies: [.package(name: "qblk", path: "../..")],
    targets: [
        .executableTarget(name: "FuzzChains", dependencies: parts, swiftSettings: fuzzer),
        .executableTarget(name: "FuzzRequests", dependencies: parts, swiftSettings: fuzzer),
        .executableTarget(name: "VirtqueueCost", dependencies: parts),
    ],
    swiftLanguageModes: [.v6]
)
