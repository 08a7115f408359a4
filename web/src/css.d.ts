// The bundler takes style sheets along with the scripts that import them.
declare module "*.css";
