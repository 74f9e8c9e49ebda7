// swift-tools-version: 6.3
// Why this package exists: fuzzers are never shipped, and need every source built with coverage instrumentation. The
// sources under test are links into the tree; nothing is downloaded. Run them with ./run.
import PackageDescription

let fuzzer: [SwiftSetting] = [
    .swiftLanguageMode(.v6), .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"), .unsafeFlags(["-parse-as-library"]),
]
let link: [LinkerSetting] = [.unsafeFlags(["-use-ld=lld"])]

let package = Package(
    name: "fuzz",
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
