// swift-tools-version: 6.3
// The fuzzers of the qcow2 reader and writer. They are never shipped, and need every source built with coverage
// instrumentation: the sources under test are links into the tree; nothing is downloaded. Run them with ./run.
import PackageDescription

let fuzzer: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"), .unsafeFlags(["-parse-as-library"]),
]
let link: [LinkerSetting] = [.unsafeFlags(["-use-ld=lld"])]

let package = Package(
    name: "fuzz-qcow2",
    targets: [
        .target(name: "DiskTypes", swiftSettings: fuzzer),
        .target(name: "QCOW2", dependencies: ["DiskTypes"], swiftSettings: fuzzer),
        .target(name: "FuzzKit", dependencies: ["QCOW2", "DiskTypes"], swiftSettings: fuzzer),
        .executableTarget(
            name: "FuzzOpen", dependencies: ["FuzzKit", "QCOW2", "DiskTypes"], swiftSettings: fuzzer,
            linkerSettings: link),
        .executableTarget(
            name: "FuzzLookup", dependencies: ["FuzzKit", "QCOW2", "DiskTypes"], swiftSettings: fuzzer,
            linkerSettings: link),
        .executableTarget(
            name: "FuzzWrite", dependencies: ["FuzzKit", "QCOW2", "DiskTypes"], swiftSettings: fuzzer,
            linkerSettings: link),
        .executableTarget(
            name: "FuzzCanary", dependencies: ["FuzzKit", "QCOW2", "DiskTypes"], swiftSettings: fuzzer,
            linkerSettings: link),
    ]
)
