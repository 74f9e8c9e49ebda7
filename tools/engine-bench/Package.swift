// swift-tools-version: 6.3
// A package of its own: what measures the engine is not part of what is built and shipped.
import PackageDescription

let package = Package(
    name: "engine-bench",
    dependencies: [.package(name: "qblk", path: "../..")],
    targets: [
        .executableTarget(
            name: "engine-bench",
            dependencies: [.product(name: "BlockServing", package: "qblk")],
            swiftSettings: [.swiftLanguageMode(.v6), .unsafeFlags(["-enforce-exclusivity=unchecked"])])
    ]
)
